"""The study of selectors: what it counts is right, its command runs, and its page is what results.json says."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.errors import ModelError
from vispco.evaluation import Evaluator
from vispco.frontier import paired_difference
from vispco.selectors import REGISTRY, make_selector

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "selectors"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"experiments.selectors.{name}")


@pytest.fixture(scope="module")
def base():
    model, processor = load_checkpoint("micro-llava")
    return Evaluator(model, processor, load_samples("shapes", "test", 8, seed=1))


def test_every_registered_selector_is_run_with_its_defaults_and_all_variants_exist(load):
    variants = load("variants")
    entries = variants.entries()
    assert {entry.selector for entry in entries if not entry.params} == set(REGISTRY)
    assert set(variants.VARIANTS) <= set(REGISTRY)
    for entry in entries:
        make_selector(entry.selector, entry.params)
    assert len({entry.label for entry in entries}) == len(entries)
    # References come first, so that the others can be held against them.
    assert [entry.label for entry in entries[:2]] == ["random", "fastv"]
    labels = {entry.label for entry in entries}
    assert {label for pair in load("statistics").PAIRS for label in pair} <= labels
    assert set(load("tables").ALPHAS) <= labels


def test_whose_attention_a_selector_reads(load):
    entry = load("variants").Entry
    found = {name: entry(name, name).attention for name in ("fastv", "fastervlm", "mustdrop", "mob")}
    assert found == {"fastv": "decoder", "fastervlm": "tower", "mustdrop": "decoder and tower", "mob": "none"}


def test_differences_are_paired_and_by_slice(load):
    statistics = load("statistics")
    rng = np.random.default_rng(0)
    own, other = rng.integers(0, 2, (2, 1, 12)).astype(float)
    slices = {"a": [0, 1, 2, 3, 4, 5], "b": [6, 7, 8, 9, 10, 11]}
    measured = {"random": {"score": other}, "x": {"score": own}}
    found = statistics.versus(measured, "x", 0, slices, np.ones(12))
    assert found["random"]["mean"] == pytest.approx(paired_difference(own[0], other[0]), abs=5e-5)
    assert found["random"]["slices"]["b"][0] == pytest.approx((own[0, 6:] - other[0, 6:]).mean(), abs=5e-5)
    assert found["unpruned"]["mean"][0] == pytest.approx(own.mean() - 1, abs=5e-5)
    assert set(found) == {"unpruned", "random"}


def test_a_record_has_means_by_seed_in_the_order_of_the_samples(load):
    score = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    found = load("statistics").record(score, {"a": [0, 2, 4], "b": [1, 3, 5]}, 3)
    assert found["seeds"] == [1.0, 0.5, 0.0]
    assert found["slices"]["a"][0] == pytest.approx(2 / 3, abs=1e-4)
    assert found["score"][0] == 0.5


def test_entries_that_chose_alike_are_found_by_every_ratio(load):
    kl = np.array([[0.1, 0.2], [0.3, 0.4]])
    near = kl + np.array([[0.0, 0.0], [0.0, 1e-3]])
    measured = {"a": {"kl": kl}, "b": {"kl": near}, "c": {"kl": kl + 1e-8}}
    assert load("statistics").same_choices(measured) == [["a", "c"]]


def test_random_is_the_mean_of_its_permutations(load, base):
    study = load("study")
    keep = (1.0, 1.0, *[0.25] * 6)
    found = study.measure(base, load("variants").Entry("random", "random"), [keep], 2)
    each = [base.share("random", {"seed": seed}).evaluate([keep])[0] for seed in (8, 9, 10, 11)]
    assert np.allclose(found["kl"][0], np.mean([quality.kl for quality in each], axis=0))
    assert np.allclose(found["score"][0], np.mean([quality.score for quality in each], axis=0))
    assert len({tuple(quality.kl) for quality in each}) == 4


def test_a_cut_keeps_as_many_tokens_as_its_budget_allows(load, base):
    study, cost = load("study"), base.cost()
    for budget in (0.35, 0.5, 0.9):
        keep = study.most_for(budget, cost, 100, 8)
        assert keep[:2] == (1.0, 1.0)
        more = (1.0, 1.0, *[keep[2] + 0.01] * 6)
        assert cost.exact(keep) <= budget < cost.exact(more)
    assert study.most_for(0.2, cost, 100, 8) is None


def test_the_controls_are_counted_by_their_intervals(load):
    def rival(low, high):
        minus = {"random": {"mean": [(low + high) / 2, low, high], "slices": {"a": [0.0, -0.1, 0.1]}}}
        return {"attention": "decoder", "params": {}, "0.25": {"minus": minus}, "0.11": {"minus": minus}}

    scores = {"x": rival(-0.3, -0.1), "y": rival(0.1, 0.2), "z": rival(-0.1, 0.1), "w": rival(-0.2, -0.1)}
    scores["control"] = {**rival(0.1, 0.2), "attention": "none"}
    text = load("tables").controls({"scores": scores, "unpruned": {"slices": {"a": None}}})
    assert "| won / tied / lost against 4 |" in text
    assert "| mean | 2 / 1 / 1 | 2 / 1 / 1 |" in text  # "won" is the control's: the rival's difference is negative
    assert "| a | 0 / 4 / 0 |" in text


def test_the_command_measures_tabulates_and_lists_refusals(load, tmp_path, monkeypatch):
    study = load("study")
    share = Evaluator.share

    def refusing(self, selector, params=None):
        if selector == "divprune":
            raise ModelError("no such signal")
        return share(self, selector, params)

    monkeypatch.setattr(Evaluator, "share", refusing)
    (tmp_path / "README.md").write_text((FOLDER / "README.md").read_text())
    options = ["--per-slice", "1", "--seeds", "2", "--only", "divprune", "mob", "--rehearsal", "--out", str(tmp_path)]
    study.main(options)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["refused"]) == {"divprune", "divprune source=hidden"}
    expected = {"random", "fastv", "pooling", "mob", "mob preset=strong", "mob preset=weak"}
    assert set(results["scores"]) == expected
    assert set(results["pairs"]) == {"mob preset=strong - mob preset=weak"}
    for entry in results["scores"].values():
        for ratio in ("0.5", "0.25", "0.11"):
            assert len(entry[ratio]["seeds"]) == 2
            assert len(entry[ratio]["slices"]) == 8
    sides = results["downsampled"]["sides"]
    assert [found["tokens"] for found in sides.values()] == [64, 49, 36, 25, 16, 9]
    for side, cuts in results["downsampled"]["equal cost"].items():
        assert all(cut["cost"] <= sides[side]["cost"] + 1e-4 for cut in cuts.values())
    assert set(results["downsampled"]["equal cost"]["8"]) == {"random", "fastv", "pooling"}
    assert (tmp_path / "results.png").stat().st_size > 0
    written = (tmp_path / "README.md").read_text()
    assert "`divprune`: no such signal" in written
    assert "**REHEARSAL: too few samples" in written
    assert str(ROOT) not in json.dumps(results)


def test_the_page_shows_what_the_results_say(load):
    text = (FOLDER / "README.md").read_text()
    results = json.loads((FOLDER / "results.json").read_text())
    blocks = load("tables").tables(results)
    assert load("page").fill(text, blocks) == text
    assert {name for _, name, _ in load("page").BLOCK.findall(text)} == set(blocks)


def test_a_page_with_a_rehearsal_says_so_and_a_full_one_does_not(load):
    text = (FOLDER / "README.md").read_text()
    results = json.loads((FOLDER / "results.json").read_text())
    data = results["config"]["data"]
    full = data["per slice"] >= load("study").PER_SLICE and len(data["seeds"]) >= 3
    assert results["config"]["rehearsal"] != full
    assert ("REHEARSAL" in text) != full


def test_tables_are_filled_between_their_marks_only(load):
    page = load("page")
    text = "before\n<!-- table a -->\nold\n<!-- end -->\nbetween\n<!-- table b -->\n<!-- end -->\n"
    filled = page.fill(text, {"a": "| x |", "b": "y"})
    assert (
        filled == "before\n<!-- table a -->\n\n| x |\n\n<!-- end -->\nbetween\n<!-- table b -->\n\ny\n\n<!-- end -->\n"
    )
    assert page.fill(filled, {"a": "| x |", "b": "y"}) == filled
    with pytest.raises(KeyError):
        page.fill(text, {"a": "x"})


def test_intervals_are_points_of_percent_without_a_negative_zero(load):
    percent = load("page").percent
    assert percent([0.12345, -0.0, 0.5]) == "12.3 [0.0, 50.0]"
    assert percent([-0.00004, -0.2, 0.0], sign=True) == "+0.0 [-20.0, +0.0]"


def test_results_are_stored_as_json_with_a_record_per_line(load):
    value = {"a": {"b": {"c": {"d": [1, 2]}, "e": {}}}, "f": None, "g": []}
    text = load("page").dump(value)
    assert json.loads(text) == value
    assert '"c": {"d":[1,2]}' in text
