"""The study of the evaluator: what it compares is right, and its page is what results.json says."""

import importlib
import json
from pathlib import Path

import pytest

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import Evaluator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "evaluation"
SCHEDULES = [(1.0,) * 8, (1.0, 1.0) + (0.3,) * 6, (1.0, 1.0) + (0.3,) * 5 + (0.1,), (1.0,) * 4 + (0.05,) * 4]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.evaluation.study")


@pytest.fixture(scope="module")
def opened():
    return (*load_checkpoint("micro-llava"), load_samples("shapes", "validation", 3, seed=7))


def test_one_by_one_is_charged_as_if_it_ran(study, opened):
    evaluator = Evaluator(*opened)
    counted = study.one_by_one_forwards(evaluator, SCHEDULES)
    ran = sum(study.charged(evaluator, lambda keep=keep: evaluator.evaluate([keep])) for keep in SCHEDULES)
    assert counted == pytest.approx(ran, rel=1e-12)


def test_a_subset_is_scaled_up_to_all(study, opened, monkeypatch):
    """With times that are the FLOPs, the factor in time is that in FLOPs."""
    evaluator = Evaluator(*opened)

    def timed(run):
        forwards = study.charged(evaluator, run)
        return {"wall": forwards, "cpu": 2 * forwards}

    monkeypatch.setattr(study, "timed", timed)
    found = study.prefix_sharing(evaluator, SCHEDULES, subset=2, rounds=1)
    assert found["timed alone"] == 2
    assert found["scaled by"] > 1
    assert found["factor in FLOPs"] > 1.3
    for clock in ("wall", "CPU"):
        assert found[f"factor in {clock} time"] == pytest.approx(found["factor in FLOPs"], rel=1e-9)


def test_copies_in_one_batch_are_the_samples_again(study, opened):
    evaluator = Evaluator(*opened)
    wide = study.repeated(evaluator, 3)
    assert [len(batch.rows) for batch in wide.batches] == [9]
    for one, many in zip(evaluator.evaluate(SCHEDULES), wide.evaluate(SCHEDULES), strict=True):
        assert many.kl == pytest.approx([*one.kl] * 3, abs=1e-5)


def test_the_command_runs(study, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(study, "LADDER", (1.0, 0.1))
    options = ["--samples", "3", "--subset", "2", "--rounds", "1", "--few", "2", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["study", *options])
    study.main()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == json.loads(capsys.readouterr().out)
    assert results["prefix sharing"]["schedules"] == 8
    assert sum(results["caching"]["share of the time"].values()) == pytest.approx(1)
    assert results["caching"]["bytes per sample, memory"]["unpruned answers"] == 2 * 51 * 4
    assert (tmp_path / "factors.png").stat().st_size > 5000
