"""Bytes counted without weights and arithmetic are those counted with both, and the table adds them up."""

import importlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.latency.search_memory")


@pytest.fixture
def tiny(study):
    return study.SHAPES["LLaVA-1.5-7B"].reduced(3, 64, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", range(3))
def test_a_step_without_arithmetic_takes_the_same_bytes(study, tiny, way, dtype):
    keep = (1.0, 0.9, 0.5)
    true, hollow = (study.Bench(tiny, 3, 2, hollow=hollow, dtype=dtype) for hollow in (False, True))
    expected = study.peak_bytes(partial(true.step, keep, study.WAYS[way], 2), "cpu")
    with study.NoArithmetic():
        assert study.peak_bytes(partial(hollow.step, keep, study.WAYS[way], 2), "cpu") == expected


@pytest.mark.parametrize("name", ["Qwen2.5-VL-7B", "LLaVA-NeXT-7B"])
def test_other_models_without_arithmetic_take_the_same_bytes(study, name):
    tiny = study.SHAPES[name].reduced(2, 64, 64)
    true, hollow = (study.Bench(tiny, 2, 1, hollow=hollow) for hollow in (False, True))
    expected = study.peak_bytes(partial(true.step, (1.0, 0.5), study.WAYS[1]), "cpu")
    with study.NoArithmetic():
        assert study.peak_bytes(partial(hollow.step, (1.0, 0.5), study.WAYS[1]), "cpu") == expected


def test_a_hollow_model_holds_no_weights(study, tiny):
    model = study.Bench(tiny, 3, 1).model
    assert all(weight.untyped_storage().nbytes() <= 4 for weight in model.parameters())
    true = study.Bench(tiny, 3, 1, hollow=False).model
    assert [weight.shape for weight in model.parameters()] == [weight.shape for weight in true.parameters()]
    for (name, table), (other, same) in zip(model.named_buffers(), true.named_buffers(), strict=True):
        assert name == other
        assert torch.equal(table, same)


def test_the_order_of_the_ways_is_the_order_of_their_memory(study, tiny):
    graph, parts, twice = (study.peak(tiny, 6, 1, way, study.worst(6)) for way in study.WAYS)
    many = study.peak(tiny, 6, 2, study.WAYS[0], study.worst(6), 3)
    assert many == pytest.approx(6 * graph, rel=0.02)
    # Schedules take turns. Prompts as short as these two share a part; long ones would take turns too.
    assert study.peak(tiny, 6, 2, study.WAYS[1], study.worst(6), 3) == pytest.approx(2 * parts, rel=0.02)
    assert twice < parts < 1.1 * graph


def test_a_line_and_how_far_points_are_from_it(study):
    gib = study.GIB
    assert study.line({2: 3 * gib, 4: 5 * gib, 6: 7 * gib}, 32) == pytest.approx(
        {"per layer GiB": 1.0, "at depth GiB": 33.0, "off": 0.0}, abs=1e-12
    )
    assert study.line({2: 3 * gib, 4: 6 * gib, 6: 7 * gib}, 32)["off"] == pytest.approx(0.2)


def test_bytes_of_captured_inputs_by_hand(study, tiny):
    bench = study.Bench(tiny, 3, 1)
    tokens = sum(tiny.tokens[:2])
    held = study.held_bytes(bench)
    assert held["hidden states"] == 2 * tokens * 64
    assert held["masks"] == 0  # a sample alone needs none
    assert held["tables"] == 2 * 2 * tokens * 8 + 8 * tokens
    assert held["teacher"] == 4 * 3 * bench.model.config.text_config.vocab_size


def test_the_command_counts_every_way_and_adds_up(study, tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(study, "SHAPES", {"tiny": tiny})
    monkeypatch.setattr(study, "MODELS", {"tiny": study.WAYS})
    study.main(["--out", str(tmp_path / "results.json")])
    [model] = json.loads((tmp_path / "results.json").read_text())["models"]
    for step in model["steps"]:
        assert step["at depth GiB"] == pytest.approx(step["counted GiB"], rel=0.05)
    assert model["steps"][0]["of a batch"] == pytest.approx(4, rel=0.1)
    model |= {"weights GiB": 74.0}
    assert study.total(model) == pytest.approx(74, abs=0.1)
    assert "| of 74.5 GiB | fits |" in study.table({"models": [model]})
    model |= {"weights GiB": 74.6}
    assert "| of 74.5 GiB | does not fit |" in study.table({"models": [model]})
    assert "graph of the whole batch" in capsys.readouterr().out


def test_a_true_step_is_what_was_counted(study, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "SHAPES", {"tiny": tiny})
    monkeypatch.setattr(study, "MODELS", {"tiny": ()})
    study.main(["--with-arithmetic", "3", "--out", str(tmp_path / "results.json")])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["bytes"] == found["without arithmetic, bytes"]


def test_committed_results_are_what_the_page_says(study):
    folder = ROOT / "experiments/latency"
    results = json.loads((folder / "results/search_memory.json").read_text())
    assert [model["name"] for model in results["models"]] == list(study.MODELS)
    assert study.table(results) in (folder / "search_memory.md").read_text()
    true = json.loads((folder / "results/search_memory_with_arithmetic.json").read_text())
    assert true["bytes"] == true["without arithmetic, bytes"]
