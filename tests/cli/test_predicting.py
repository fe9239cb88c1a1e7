"""A run's predictor: a file that answers for any budget, schedules per sample, and settings that do not go together."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import vispco
from vispco.cli import main
from vispco.cli.predicting import FILE, predict
from vispco.engine import load_checkpoint

TINY = [
    "data.search_samples=24",
    "data.report_samples=24",
    "search.steps=3",
    "search.batch=2",
    "search.anchors=4",
    "search.samples=16",
    "search.start_levels=5",
    "search.probe_samples=8",
    "search.select_samples=8",
    "budget.values=[0.4,0.9]",
    "tracker=none",
    "progress=false",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with schedules per sample."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    assert main(["search", *TINY, "search.per_sample=true", f"hydra.run.dir={folder}"]) == 0
    return folder


def test_a_budget_that_nobody_asked_for_is_held_exactly_by_the_stock_model(run, tmp_path):
    assert main(["export", str(run), "--budget", "0.57", "--predict", "-o", str(tmp_path / "c.json")]) == 0
    config = vispco.PruningConfig.load(tmp_path / "c.json")
    assert 0.53 < config.costs["flops"] <= 0.57
    assert (config.budget, config.selector, config.quality) == (0.57, "fastv", {})
    assert config.provenance["measured"] is False
    model, _ = load_checkpoint("micro-llava")
    with vispco.prune(model, config):
        pass
    assert main(["eval", str(tmp_path / "c.json"), "data.report_samples=16"]) == 0


def test_it_says_that_a_prediction_was_not_measured(run, tmp_path, capsys):
    assert main(["export", str(run), "--budget", "0.5", "--predict", "-o", str(tmp_path / "c.json")]) == 0
    assert capsys.readouterr().out.rstrip().endswith("not measured")


def test_at_an_anchor_it_gives_the_start_or_what_training_made_of_it(run):
    measured = {tuple(p.keep) for p in vispco.read_points(run) if p.method == "learned"}
    keeps = {tuple(predict(run, budget).keep) for budget in (0.4, 0.9)}
    distance = [min(np.abs(np.subtract(keep, other)).max() for other in measured) for keep in keeps]
    assert max(distance) < 0.2


def test_all_anchors_are_verified_on_the_report_split(run):
    budgets = [point.budget for point in vispco.read_points(run) if point.method == "learned"]
    assert len(budgets) == 4
    assert {0.4, 0.9} <= set(budgets)


def test_schedules_per_sample_are_points_of_their_own_within_the_budget(run):
    points = [point for point in vispco.read_points(run) if point.method == "learned per sample"]
    assert [point.budget for point in points] == [0.9, 0.4] or [point.budget for point in points] == [0.4, 0.9]
    for point in points:
        assert point.budget - 0.1 < point.costs["flops"] <= point.budget
        assert point.name.startswith("learned per sample b=")
    exported = json.loads((run / "frontier.json").read_text())["configs"]
    assert {tuple(point.keep) for point in points}.isdisjoint({tuple(config["keep"]) for config in exported})


@pytest.mark.parametrize("budget", ["0.95", "0.3", "-1"])
def test_budgets_outside_the_training_are_refused(run, tmp_path, capsys, budget):
    assert main(["export", str(run), "--budget", budget, "--predict", "-o", str(tmp_path / "c.json")]) == 2
    assert "choose one in 0.4..0.9" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_a_run_without_a_predictor_says_how_to_get_one(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--budget", "0.5", "--predict", "-o", str(tmp_path / "c.json")]) == 2
    assert "has no predictor; search with search=learned search.predictor=true" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "foreign", "other sizes", "no dtype", "text"])
def test_a_damaged_file_is_refused_in_one_line(run, tmp_path, capsys, damage):
    good, bad = run / FILE, tmp_path / FILE
    if damage == "truncated":
        bad.write_bytes(good.read_bytes()[:-40])
    elif damage == "foreign":
        save_file(load_file(good), bad)
    elif damage == "other sizes":
        header = good.read_bytes()
        bad.write_bytes(header.replace(b"multistep", b"exponential"[:9], 1))
    elif damage == "no dtype":
        content = good.read_bytes()
        assert b"float32" in content
        bad.write_bytes(content.replace(b"float32", b"flaot32", 1))
    else:
        bad.write_text("not tensors")
    assert main(["export", str(tmp_path), "--budget", "0.5", "--predict", "-o", str(tmp_path / "c.json")]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "not a predictor that this version can read" in error


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.starts=2"], "give search.starts=1 or search.predictor=false"),
        (["search.predictor=false", "search.per_sample=true"], "a schedule per sample needs a predictor"),
        (["search.tune=[alpha]", "selector=balanced_fastv", "search.polish_rounds=1"], "polishing moves schedules"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, capsys, overrides, message):
    assert main(["search", *TINY, *overrides, f"hydra.run.dir={tmp_path / 'r'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
