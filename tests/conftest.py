"""Fixtures that every test may use, and what makes every test repeatable."""

import random

import numpy as np
import pytest
import torch
from builders import build_batch, build_tiny_llava
from hypothesis import settings

torch.set_num_threads(1)

# Properties meet the same examples in every run, and a failure says how to meet that one alone. To look further:
# pytest --hypothesis-profile=explore --hypothesis-seed=1 (a failure prints its seed).
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("repeatable")


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="of everything random in a test that has no seed of its own")


def pytest_report_header(config):
    return f"random seed: {config.getoption('seed')} (--seed)"


@pytest.fixture(autouse=True)
def seeded(request):
    """Global generators start anew in every test, so that it does not matter which tests ran before."""
    seed = request.config.getoption("seed")
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (third parties draw from it)
    random.seed(seed)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Generated data goes to a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_llava():
    return build_tiny_llava()


@pytest.fixture(scope="session")
def ragged_batch():
    """Four samples: different text lengths, one, two, no and one image; left padded."""
    return build_batch([(2, 5), (1, 7), (3, 4), (2, 9)], [1, 2, 0, 1])
