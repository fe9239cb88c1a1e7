"""The self-test that runs on a release of transformers that nobody has tested yet."""

import re
import tomllib
import warnings
from pathlib import Path

import pytest
import torch
import transformers

from vispco.engine import compat, gathering, prune
from vispco.engine.selftest import masked_keys, self_test, tiny_model
from vispco.errors import ModelError
from vispco.testing import MODELS, SELECTORS, Case

ROOT = Path(__file__).parents[2]


def test_it_passes_on_this_release():
    self_test()


def without_gaps(table, slots):
    """Rotary tables as if nothing had been dropped."""
    return table[:, : slots.shape[1]].expand(len(slots), -1, -1)


def one_late(values, slots):
    """The row after the one that was asked for."""
    return gathering.gather_slots(values.roll(-1, 1), slots)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        ("gather_table", without_gaps, "dropping tokens does not equal masking them"),
        ("gather_table", one_late, "gathering all tokens changes the logits"),
        ("gather_slots", one_late, "gathering all tokens changes the logits"),
    ],
)
def test_it_finds_a_broken_engine(monkeypatch, place, wrong, message):
    monkeypatch.setattr(f"vispco.engine.running.{place}", wrong)
    with pytest.raises(ModelError, match=rf"{message}.*install a tested one, 5\.4 to 5\.23"):
        self_test()


def test_masked_keys_are_really_masked():
    """The reference is judged too: with a key masked, its token's value does not matter to later ones."""
    model = tiny_model()
    ids = torch.tensor([[6, 7, 8, 9]])
    there = torch.tensor([[True, False, True, True]])
    with masked_keys(model.get_decoder().layers, [there] * 4):
        one = model(input_ids=ids).logits
        other = model(input_ids=torch.tensor([[6, 10, 8, 9]])).logits
    assert torch.equal(one[:, 2:], other[:, 2:])
    assert not torch.allclose(model(input_ids=ids).logits[:, 2:], one[:, 2:], atol=1e-3)


@pytest.fixture
def fresh(monkeypatch):
    """As if the release had not been looked at yet."""
    compat.check_release.cache_clear()
    yield monkeypatch
    compat.check_release.cache_clear()


def test_a_tested_release_is_silent(fresh):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compat.check_release()


@pytest.mark.parametrize("version", ["5.24.0", "5.100.0.dev0", "6.0.0"])
def test_a_newer_release_is_tested_once_and_warned_of(fresh, version):
    ran = []
    fresh.setattr(transformers, "__version__", version)
    fresh.setattr("vispco.engine.selftest.self_test", lambda: ran.append(1))
    case = Case(MODELS["llava"], SELECTORS["fastv"])
    said = rf"transformers {re.escape(version)} is newer than 5\.23"
    with pytest.warns(UserWarning, match=said), prune(case.net, case.config()):
        pass
    with prune(case.net, case.config()):
        pass
    assert ran == [1]


def test_a_newer_release_that_fails_is_refused(fresh):
    def fail():
        raise ModelError("broken")

    fresh.setattr(transformers, "__version__", "5.24.0")
    fresh.setattr("vispco.engine.selftest.self_test", fail)
    case = Case(MODELS["llava"], SELECTORS["fastv"])
    with pytest.raises(ModelError, match="broken"), prune(case.net, case.config()):
        pass


def test_the_newest_tested_release_is_the_pinned_one():
    pinned = re.search(r"^transformers==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert (int(pinned[1]), int(pinned[2])) == compat.NEWEST_TESTED


def test_the_oldest_tested_release_is_the_lower_bound():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [bound] = [re.search(r">=([\d.]+)", line)[1] for line in dependencies if line.startswith("transformers")]
    tested = re.search(r"^TRANSFORMERS := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert tested.rsplit(".", 1)[0] == bound


@pytest.mark.parametrize(("argument", "length", "removed"), [(-3, 8, 3), (0, 8, 0), (5, 8, 3), (8, 8, 0), (9, 8, 0)])
def test_crops_of_all_releases(argument, length, removed):
    assert compat.tokens_to_remove(argument, length) == removed
