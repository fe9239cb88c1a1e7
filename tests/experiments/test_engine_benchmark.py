"""The engine's benchmark: what it counts and compares is right, and its command runs; no time is asserted."""

import gc
import importlib
import json
from pathlib import Path

import pytest

from vispco import count_flops
from vispco.schedule import keep_counts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    yield lambda name: importlib.import_module(f"experiments.engine.{name}")
    gc.unfreeze()  # the command freezes what it finds, here all that other tests have left


def test_full_models_have_the_sizes_of_the_published_ones(load):
    workloads = load("models").PRESETS["gpu"].workloads
    found = {}
    for workload in workloads:
        config, visual, _ = workload.parts()
        layers = config.get_text_config().num_hidden_layers
        found[workload.name] = (visual, count_flops(config, 640 - 576, 576, (1.0,) * layers).total)
    # LLaVA-1.5-7B with 640 tokens is 4.252 T multiply-adds. Qwen2.5-VL-7B by hand: per layer and token 2 d (2 d + 2
    # * 512 + 3 * 18944) for the matrices, 4 n d for the attention of n tokens.
    qwen = 28 * 640 * (2 * 3584 * (2 * 3584 + 2 * 512 + 3 * 18944) + 4 * 640 * 3584) + 2 * 3584 * 152064
    assert found["LLaVA-1.5"] == (576, pytest.approx(2 * 4.252e12, rel=2e-4))
    assert found["LLaVA-NeXT"] == (2928, pytest.approx(2 * 4.252e12, rel=2e-4))
    assert found["Qwen2.5-VL"] == (1280, pytest.approx(qwen, rel=1e-12))


def test_schedules_spend_half_of_the_flops_or_drop_one_token(load):
    benchmark = load("benchmark")
    for workload in load("models").PRESETS["cpu"].workloads:
        config, visual, _ = workload.parts()
        found = benchmark.schedules(config, visual)
        counts = {name: keep_counts(keep, visual).tolist() for name, keep in found.items()}
        assert counts["keep everything"] == [visual] * 8
        assert counts["drop one token"] == [visual] * 2 + [visual - 1] * 6
        for name, cuts in (("half of the FLOPs, one cut", {2}), ("half of the FLOPs, three cuts", {2, 4, 6})):
            assert 0.498 < benchmark.flops(config, visual, found[name]).ratio <= 0.5
            assert {layer for layer in range(1, 8) if counts[name][layer] < counts[name][layer - 1]} == cuts


def test_predictions_are_those_of_one_layer_counted_by_hand(load):
    config, visual, _ = load("models").PRESETS["cpu"].workloads[1].parts()
    full, less = 64 + 1024, 64 + 512
    predicted = load("benchmark").work(config, visual, (1.0,) * 7 + (0.5,))

    def linear(tokens):
        return 2 * tokens * 256 * (4 * 256 + 3 * 688)

    def ratio(attention):
        layer = [linear(tokens) + attention * tokens**2 * 256 for tokens in (full, less)]
        head = 2 * 256 * 1024
        return (7 * layer[0] + layer[1] + head + 2 * full * 256) / (8 * layer[0] + head)

    assert predicted["FLOPs ratio"] == pytest.approx(ratio(4), abs=1e-4)
    assert predicted["FLOPs ratio, causal attention"] == pytest.approx(ratio(2), abs=1e-4)
    assert predicted["token ratio"] == pytest.approx((7 * full + less) / (8 * full), abs=1e-4)


def test_the_command_measures_every_case_of_all_three_families(load, tmp_path):
    out = tmp_path / "results" / "rehearsal.json"
    load("benchmark").main(["--preset", "rehearsal", "--pairs", "1", "--warm-up", "0", "--out", str(out)])
    text = out.read_text()
    results = json.loads(text)
    assert str(ROOT) not in text
    assert str(tmp_path) not in text
    assert results["environment"]["dtype"] == "float32"
    workloads = load("models").PRESETS["rehearsal"].workloads
    assert [part["model"] for part in results["workloads"]] == [workload.name for workload in workloads]
    for part, workload in zip(results["workloads"], workloads, strict=True):
        config, visual, _ = workload.parts()
        schedules = load("benchmark").schedules(config, visual)
        assert part["visual tokens"] == visual
        assert 0.0 < part["time outside the decoder"] < 1.0
        assert [case["case"] for case in part["cases"]] == ["stock against itself", *schedules]
        for case in part["cases"][1:]:
            assert case["kept"] == keep_counts(schedules[case["case"]], visual).tolist()
        memory = [case["memory ratio"] for case in part["cases"][1:]]
        assert 1.0 <= memory[0] < memory[1] < 1.1
        assert max(memory[2:]) < 0.95
