"""Searches and evaluations of a model that is on other devices than the CPU, which are pretended here."""

import pytest
import torch
from pretending import Devices, dispatch

from vispco import PruningConfig, prune
from vispco.cli import job, main, presentation
from vispco.cli.overrides import parse_overrides
from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import generate_answers
from vispco.runs import NoTracker

TINY = [
    "data.search_samples=4",
    "data.report_samples=3",
    "data.batch_size=3",
    "data.cache_gib=0.0",
    "baseline=none",
    "search.steps=1",
    "search.samples=2",
    "search.batch=2",
    "search.anchors=2",
    "search.start_levels=3",
    "search.probe_samples=2",
    "search.select_samples=2",
    "search.polish_rounds=0",
    "search.polish_samples=2",
    "budget.values=[0.6]",
    "selector=balanced_fastv",
    "search.tune=[alpha]",
    "tracker=none",
    "progress=false",
]


def on_one(model):
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.pretended = torch.device("cuda:0")
    return model


def on_two(model):
    return dispatch(model, "cuda:0", "cuda:1", "cuda:0")


def search(monkeypatch, folder, place=lambda model: model):
    """Points of a search, and what the report shows of kept tokens."""
    settings = parse_overrides(TINY)

    def opened(given):
        model, processor = load_checkpoint(given.path)
        return place(model), processor

    monkeypatch.setattr(job, "open_model", opened)
    outcome = job.SearchJob(settings, NoTracker(), folder).run()
    return outcome.points, [overlay.said for overlay in presentation._gallery(outcome, outcome.rows[0].point)]


def test_a_search_on_two_devices_finds_the_same(tmp_path, monkeypatch):
    expected = search(monkeypatch, tmp_path)
    with Devices():
        assert search(monkeypatch, tmp_path, on_two) == expected
    assert any(point.method == "learned" for point in expected[0])


def test_answers_on_another_device_are_the_same():
    samples = load_samples("shapes", "test", 3)

    def answers(place=lambda model: model):
        model, processor = load_checkpoint("micro-llava")
        model = place(model)
        card = {"type": "llava", "layers": 8}
        config = PruningConfig.from_data({"selector": "fastv", "keep": [1.0, 1.0, *[0.5] * 6], "model": card})
        with prune(model, config):
            return generate_answers(model, processor, samples, batch_size=2, max_new_tokens=4)

    with Devices():
        assert answers(on_one) == answers()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device_map", ["cuda", "auto"])
def test_the_program_runs_on_a_device(device_map, tmp_path, capsys):
    run, best = tmp_path / "run", tmp_path / "best.json"
    place = f"model.device_map={device_map}"
    assert main(["search", *TINY, place, f"hydra.run.dir={run}"]) == 0
    assert main(["export", str(run), "--budget", "0.6", "-o", str(best)]) == 0
    assert main(["eval", str(best), "data.report_samples=3", place]) == 0
    assert main(["bench", str(best), "--pairs", "2", "--new-tokens", "2", "data.report_samples=6", place]) == 0
