"""The study of MoB: its own walk through the layers is the evaluator's, and its page is what results.json says."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import Evaluator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "mob"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"experiments.{name}")


@pytest.fixture(scope="module")
def base():
    model, processor = load_checkpoint("micro-llava")
    return Evaluator(model, processor, load_samples("shapes", "test", 24, seed=1), batch_size=10)


def made(load, eta, kl, **others):
    """A sweep with given couplings and KL (settings, samples)."""
    kl = np.asarray(kl, dtype=float)
    arrays = {name: others.get(name, np.zeros_like(kl)) for name in ("score", "change", "prompt", "visual")}
    return load("mob.sweep").Sweep(eta=np.asarray(eta, dtype=float), kl=kl, **arrays)


def test_the_sweep_agrees_with_the_evaluator(load, base):
    settings = [(0.11, {"share": 0.5, "k": 4}), (0.33, {"share": 0.25, "k": 1}), (0.22, {"preset": "weak"})]
    found = load("mob.sweep").sweep(base, settings)
    assert found.eta.shape == (24,)
    for at, (ratio, params) in enumerate(settings):
        quality = base.share("mob", params).evaluate([(1.0, 1.0, *[ratio] * 6)])[0]
        assert np.allclose(found.kl[at], quality.kl, atol=1e-5)
        assert np.array_equal(found.score[at], quality.score)
    assert 0 < found.score.mean() < 1


def test_prompt_centres_cover_the_question_and_the_others_the_image(load, base):
    settings = [(0.33, {"share": 1.0, "k": 1}), (0.33, {"share": 0.0, "k": 1}), (1.0, {"share": 0.5, "k": 4})]
    found = load("mob.sweep").sweep(base, settings)
    prompt, image, everything = range(3)
    # Room for the nearest token of every question token: then no choice has a smaller radius.
    assert np.array_equal(found.prompt[prompt], found.prompt[everything])
    assert found.prompt[prompt].mean() < found.prompt[image].mean()
    assert found.visual[image].mean() < found.visual[prompt].mean()
    assert np.all(found.visual[everything] == 0)
    assert np.allclose(found.change[everything], 0, atol=1e-4)
    assert np.all(found.change[:2] > 0)
    # With everything kept the question's radius is its directed distance, which eta is never below.
    assert np.all(found.prompt[everything] <= found.eta)


def test_rank_correlations_are_those_of_scipy_row_by_row(load):
    analysis, rng = load("mob.analysis"), np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 6, 20)).astype(float)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert analysis.spearman(a, b) == pytest.approx(expected)
    assert np.isnan(analysis.spearman(np.ones(5), np.arange(5)))


def test_a_correlation_that_slices_explain_is_seen_to_be_theirs(load):
    rng = np.random.default_rng(1)
    names = np.repeat(["a", "b", "c", "d"], 50)
    level = np.repeat([0.0, 10.0, 20.0, 30.0], 50)
    found = load("mob.analysis").across(level + rng.random(200), level + rng.random(200), names)
    assert found["all"][0] > 0.9
    assert found["all"][1] < found["all"][0] < found["all"][2]
    assert abs(found["mean of slices"]) < 0.2


def test_groups_are_split_at_the_median_of_the_first_seed(load):
    sweeps = [made(load, [0.1, 0.2, 0.3, 0.4], np.zeros((1, 4))), made(load, [0.2, 0.9], np.zeros((1, 2)))]
    found = load("mob.analysis").groups(sweeps, [["x", "y", "x", "y"], ["y", "x"]])
    assert [mask.tolist() for mask in found["strong"]] == [[True, True, False, False], [True, False]]
    assert [mask.tolist() for mask in found["weak"]] == [[False, False, True, True], [False, True]]
    assert [mask.tolist() for mask in found["y"]] == [[False, True, False, True], [True, False]]


def test_settings_are_chosen_on_one_seed_and_judged_on_the_other(load):
    params = [{"share": 0.0, "k": 1}, {"share": 0.5, "k": 4}, {"preset": "strong"}, {"preset": "weak"}]
    settings = [(0.11, each) for each in params]
    first = made(load, [0.1, 0.2, 0.8, 0.9], [[1, 1, 4, 4], [2, 2, 3, 3], [0, 0, 0, 0], [0, 0, 0, 0]])
    second = made(load, [0.1, 0.9], [[7, 8], [5, 6], [9, 1], [2, 20]])
    found = load("mob.analysis").optima([first, second], [["x"] * 4, ["x"] * 2], settings)
    strong, weak = found["strong"]["0.11"], found["weak"]["0.11"]
    assert (strong["best"], strong["preset"]) == ({"share": 0.0, "k": 1}, "strong")
    assert (weak["best"], weak["preset"]) == ({"share": 0.5, "k": 4}, "weak")
    assert strong["kl"]["best"][0] == 7
    assert strong["kl"]["preset - best"][0] == 9 - 7
    assert strong["kl"]["preset - other preset"][0] == 9 - 2
    assert weak["kl"]["preset - best"][0] == 20 - 6
    assert weak["kl"]["default - best"][0] == 0


def test_radii_are_correlated_over_settings_within_a_sample(load):
    params = [{"share": 0.0, "k": 1}, {"share": 0.5, "k": 4}, {"share": 1.0, "k": 4}, {"preset": "weak"}]
    settings = [(0.11, each) for each in params]
    # e_p falls and e_v rises with the share; KL follows e_v in every sample, and samples differ by far more than that.
    kl = np.array([[1, 100, 50], [2, 200, 60], [3, 300, 70], [0, 0, 0]], dtype=float)
    prompt, visual = (np.tile(np.array(column, dtype=float)[:, None], 3) for column in ((3, 2, 1, 9), (1, 2, 3, 0)))
    sweep = made(load, [0.1, 0.2, 0.3], kl, prompt=prompt, visual=visual, change=-kl)
    found = load("mob.analysis").bound([sweep, sweep], [["x", "y", "z"]] * 2, settings)["0.11"]["settings"]
    assert found["kl"]["e_p"] == [-1, -1, -1]
    assert found["kl"]["e_v"] == [1, 1, 1]
    assert found["change"]["e_v"] == [-1, -1, -1]
    assert found["kl"]["sum"] is None  # constant


def test_the_command_runs_and_fills_its_page(load, tmp_path, monkeypatch):
    study = load("mob.study")
    monkeypatch.setattr(study, "FOLDS", (4,))
    monkeypatch.setattr(study, "SHARES", (0.0, 0.5, 1.0))
    (tmp_path / "README.md").write_text((FOLDER / "README.md").read_text())
    study.main(["--per-slice", "2", "--rehearsal", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["config"]["settings"] == 15
    assert set(results["curves"]) == set(results["optima"])
    assert len(results["curves"]) == 11
    assert all(len(part["kl"]) == 3 for part in results["curves"]["all"].values())
    assert (tmp_path / "results.png").stat().st_size > 0
    assert "**REHEARSAL: too few samples" in (tmp_path / "README.md").read_text()
    assert str(ROOT) not in json.dumps(results)


def test_the_page_shows_what_the_results_say(load):
    text, results = (FOLDER / "README.md").read_text(), json.loads((FOLDER / "results.json").read_text())
    blocks = load("mob.tables").tables(results)
    assert load("selectors.page").fill(text, blocks) == text
    assert {name for _, name, _ in load("selectors.page").BLOCK.findall(text)} == set(blocks)


def test_a_page_with_a_rehearsal_says_so_and_a_full_one_does_not(load):
    text, results = (FOLDER / "README.md").read_text(), json.loads((FOLDER / "results.json").read_text())
    full = results["config"]["data"]["per slice"] >= load("mob.study").PER_SLICE
    assert results["config"]["rehearsal"] != full
    assert ("REHEARSAL" in text) != full
