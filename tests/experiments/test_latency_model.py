"""The latency model's study: held-out schedules are what it says, its figures follow from its results, it runs."""

import gc
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vispco.schedule import check_keep

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "latency"
MEASURED = ("micro-llava", "llava", "gemma3")


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    yield importlib.import_module("experiments.latency.model")
    torch.set_num_threads(threads)
    gc.unfreeze()


def test_schedules_fall_at_one_to_four_layers(study):
    found = study.random_schedules(8, 100, 50)
    assert found == study.random_schedules(8, 100, 50)
    assert {len(cuts) for cuts, _ in found} == {1, 2, 3, 4}
    assert {cut for cuts, _ in found for cut in cuts} == set(range(1, 8))
    for cuts, keep in found:
        assert check_keep(keep, 8) == keep
        assert [layer for layer in range(1, 8) if keep[layer] < keep[layer - 1]] == cuts
        assert keep[0] == 1.0 > keep[-1] > 0.0


def test_errors_are_relative_to_what_was_measured(study):
    found = study.statistics([0.99, 0.5, 0.22], [0.9, 0.5, 0.2])
    assert found["median error"][0] == pytest.approx(0.1)
    assert found["worst error"][0] == pytest.approx(0.1)
    assert found["bias"][0] == pytest.approx(0.1)
    assert found["tau"][0] == 1.0
    assert study.statistics([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])["tau"][0] == -1.0
    for value, low, high in found.values():
        assert low <= value <= high


def test_the_command_runs_and_measures_what_it_predicts(study, tmp_path):
    page, out = tmp_path / "model.md", tmp_path / "rehearsal.json"
    page.write_text((FOLDER / "model.md").read_text())
    study.main(["--preset", "rehearsal", "--out", str(out), "--page", str(page)])
    results = json.loads(out.read_text())
    assert len(results["rows"]) == 4
    assert {row["selector"] for row in results["rows"]} == set(study.SELECTORS)
    for row in results["rows"]:
        assert 0.1 < row["predicted"] < 10
        assert 0.1 < row["FLOPs"] < 1.0
        value, low, high = row["measured"]["cpu"]
        assert low <= value <= high
    assert study.LatencyTable.model_validate(results["table"]).key.model == "llava"


def test_windows_and_image_blocks_of_the_gemma(study):
    model, inputs, visual = study.Workload("Gemma 3", lambda: study.gemma3(64, 3, 4, 2, 8)).build("cpu", torch.float32)
    family = study.describe(model)
    assert family.windows == (8, 8, None)
    assert visual == 32 == int(family.visual_mask(inputs["input_ids"]).sum())
    assert torch.equal(inputs["token_type_ids"].bool(), family.visual_mask(inputs["input_ids"]))
    assert torch.isfinite(model(**inputs).logits).all()


def test_the_page_is_that_of_its_results(study, tmp_path):
    page = tmp_path / "model.md"
    page.write_text((FOLDER / "model.md").read_text())
    study.main(["--tables-only", "--page", str(page)])
    assert page.read_text() == (FOLDER / "model.md").read_text()


@pytest.mark.parametrize("name", MEASURED)
def test_bounds_hold_in_the_results(study, name):
    results = json.loads((FOLDER / "results" / f"model_{name}.json").read_text())
    rows = results["rows"]
    assert len(rows) == 50
    measured = [row["measured"][results["clock"]][0] for row in rows]
    found = study.statistics([row["predicted"] for row in rows], measured)
    assert found["median error"][0] <= study.BOUNDS["median error"]
    assert found["worst error"][0] <= study.BOUNDS["worst error"]
    assert found["tau"][0] >= study.BOUNDS["tau"]
    assert np.ptp(measured) > 0.3
