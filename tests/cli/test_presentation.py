"""What a report is told of a run: how the search went, pictures with what was kept, several runs apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vispco import ModelCard, Point, PruningConfig, prune
from vispco.cli.presentation import _commonest, _overlay, comparison_data, convergence
from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import prompt_text
from vispco.report import TextTable
from vispco.runs.settings import SampledMethod
from vispco.search import Progress


def point(flops, kl, **changes):
    fields = {
        "name": f"tpe {flops}", "method": "tpe", "selector": "fastv", "keep": (1.0, 0.5), "split": "test", "seed": 0,
        "costs": {"flops": flops}, "quality": {"score": 0.5, "kl": kl}, "slices": {}, "samples": 8, "backend": "sdpa",
        "dtype": "float32", "model": "m", "prompt": "p",
    }  # fmt: skip
    return Point(**(fields | changes))


def outcome(steps=(), points=()):
    return SimpleNamespace(cost="flops", found=[SimpleNamespace(steps=list(steps), points=list(points))])


def test_gradient_steps_are_curves():
    found = convergence(
        SimpleNamespace(search=None), outcome([Progress(0, -1.0, 0.2, 0.0), Progress(1, -2.0, 0.1, 0.5)])
    )
    assert found.axis == "gradient step"
    assert found.curves == {"loss": [-1.0, -2.0], "violation": [0.2, 0.1], "multiplier": [0.0, 0.5]}


def test_trials_add_to_the_hypervolume():
    """With the reference (1, 4): (0.5, 2) covers 0.5 * 2, (0.75, 1) adds 0.25 * 1, and the worst adds nothing."""
    sampled = SimpleNamespace(search=SampledMethod(name="tpe", trials=3, samples=8, tune=()))
    points = [point(0.5, 2.0), point(0.75, 1.0), point(0.9, 4.0)]
    found = convergence(sampled, outcome(points=points))
    assert found.axis == "trial"
    assert list(found.curves.values()) == [pytest.approx([1.0, 1.25, 1.25])]
    assert convergence(SimpleNamespace(search=None), outcome(points=points)) is None
    assert convergence(sampled, outcome(points=[point(0.5, 0.0)])) is None


def test_pictures_hold_what_entered_each_layer():
    model, processor = load_checkpoint("micro-llava")
    card = ModelCard(type="llava", layers=8)
    config = PruningConfig(selector="random", keep=(1.0, 1.0, 0.5, 0.5, 0.5, 0.1, 0.1, 0.0), model=card)
    (sample,) = load_samples("shapes", "test", 1)
    overlay = _overlay(model, processor, config, sample)
    assert (overlay.grid, overlay.question, overlay.answer) == ((10, 10), sample.question, sample.answer)
    assert {layer: mask.sum() for layer, mask in overlay.kept.items()} == {2: 50, 5: 10, 7: 0}
    inputs = processor(text=prompt_text(processor, sample.question), images=sample.image, return_tensors="pt")
    with torch.no_grad(), prune(model, config) as pruned:
        model(**inputs)
    for layer, mask in overlay.kept.items():
        assert np.array_equal(mask.flatten(), pruned.kept[layer][0].numpy())
    assert np.array_equal(np.asarray(overlay.image), np.asarray(sample.image.convert("RGB")))


def test_the_most_frequent_answer():
    samples = [SimpleNamespace(answer=answer) for answer in ("no", "yes", "yes", "two")]
    assert _commonest(samples) == "yes (50.0 % of samples)"


def test_runs_are_told_apart():
    table = TextTable("t", ["a"], [["b"]])
    data = comparison_data({"x": [point(0.5, 1.0)], "y": [point(0.5, 1.0), point(0.6, 1.0)]}, "flops", table)
    assert [each.name for each in data.points] == ["tpe 0.5", "tpe 0.5", "tpe 0.6"]
    assert list(data.runs) == ["x", "y", "y"]
    assert data.facts == [("x", "1 points, 8 samples"), ("y", "2 points, 8 samples")]
