"""Fixtures that every test may use."""

import pytest
import torch
from builders import build_batch, build_tiny_llava

torch.set_num_threads(1)


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
