"""Published times rebuilt: schedules cost what the papers say, and the page has the figures of its results."""

import gc
import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vispco import count_flops
from vispco.schedule import keep_counts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    yield lambda name: importlib.import_module(f"experiments.latency.{name}")
    gc.unfreeze()  # the command freezes what it finds, here all that other tests have left


@pytest.fixture
def published(load):
    return load("published")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_methods_cut_where_their_papers_do_and_cost_what_was_published(published, preset):
    shape = published.PRESETS[preset].scale(published.SHAPES["LLaVA-NeXT-7B"])
    config, tokens = shape.config, shape.tokens
    assert tokens == (64, 2928, 1, 32)
    cases = {case.name: case for case in published.next_cases(config, tokens)}
    expected = {"FastV": (0.128, [2]), "SparseVLM": (0.156, [3, 7, 16, 20]), "MustDrop": (0.115, [3, 7, 11, 15])}
    for name, (flops, cuts) in expected.items():
        assert flops - 5e-4 < cases[name].flops(config, tokens) <= flops
        assert list(cases[name].cuts) == cuts
        assert cases[f"Random, as {name}"].keep(32) == cases[name].keep(32) == cases[f"{name}, dense"].keep(32)
        assert cases[f"{name}, dense"].dense
    counts = keep_counts(cases["SparseVLM"].keep(32), 2928)
    assert counts[7] / counts[3] == pytest.approx(30 / 66, abs=0.01)
    assert counts[16] / counts[3] == pytest.approx(17 / 66, abs=0.01)
    counts = keep_counts(cases["MustDrop"].keep(32), 2928)
    assert [int(counts[3]) // int(counts[layer]) for layer in (7, 11, 15)] == pytest.approx([2, 4, 8], abs=1)
    mob = cases["MoB, 640 at layer 2"].keep(32)
    assert mob == (1.0,) * 2 + (640 / 2880,) * 30


def test_the_gpu_preset_has_the_published_models(published):
    preset = published.PRESETS["gpu"]
    assert (preset.device, preset.dtype) == ("cuda", torch.bfloat16)
    layers = {"Qwen2.5-VL-3B": (36, 2048), "LLaVA-1.5-7B": (32, 4096), "Gemma3-4B": (34, 2560)}
    for name, shape in published.TABLE_4.items():
        text = preset.scale(shape).config.get_text_config()
        assert (text.num_hidden_layers, text.hidden_size) == layers[name]
        small = published.PRESETS["cpu"].scale(shape)
        assert small.config.get_text_config().num_hidden_layers == text.num_hidden_layers
        assert small.tokens == shape.tokens
    # The paper has 3.56 TFLOPs for the unpruned Qwen2.5-VL-3B, which tells how many tokens it had.
    qwen = published.TABLE_4["Qwen2.5-VL-3B"]
    assert count_flops(qwen.config, *qwen.tokens[:2], (1.0,) * 36).total == pytest.approx(3.56e12, rel=0.05)


def test_half_of_the_flops_by_one_cut_and_by_three(published):
    for shape in map(published.PRESETS["cpu"].scale, published.TABLE_4.values()):
        one, three = published.half_cases(shape.config, shape.tokens)
        layers = shape.config.get_text_config().num_hidden_layers
        assert list(one.cuts) == [2]
        assert list(three.cuts) == [layers // 4, layers // 2, 3 * layers // 4]
        first, second, third = three.cuts.values()
        assert (second, third) == pytest.approx((first**2, first**3))
        for case in (one, three):
            assert 0.495 < case.flops(shape.config, shape.tokens) <= 0.5


TOWERS = {
    "LLaVA-1.5-7B": ("vision_tower", (4, 4), {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}),
    "Gemma3-4B": (
        "vision_tower", (4, 4),
        {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "image_size": 112},
    ),
    "Qwen2.5-VL-3B": (
        "visual", (8, 8),
        {"hidden_size": 64, "intermediate_size": 96, "depth": 4, "num_heads": 2, "window_size": 56,
         "fullatt_block_indexes": [1], "out_hidden_size": 128},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOWERS)
def test_the_work_of_vision_towers_is_that_of_their_layers(published, name):
    """Against torch's counter, which also counts what is before and after the layers."""
    place, grid, vision = TOWERS[name]
    real = published.TABLE_4[name]
    small = replace(real.reduced(2, 128, 64), grid=grid, vision={**real.vision, **vision, "num_attention_heads": 2})
    model, inputs = small.build("cpu", torch.float32), small.inputs("cpu", torch.float32)
    model.set_attn_implementation("eager")  # of whose products the counter knows all
    tower = getattr(model.model, place)
    layers = tower.blocks if place == "visual" else tower.encoder.layers
    counted = []

    def start(*_):
        counter = FlopCounterMode(display=False)
        counter.__enter__()
        counted.append(counter)

    def stop(*_):
        counted[-1].__exit__(None, None, None)

    for layer in layers:
        layer.register_forward_pre_hook(start)
        layer.register_forward_hook(stop)
    with torch.no_grad():
        model(**inputs)
    used = counted[:-1] if name == "LLaVA-1.5-7B" else counted  # the last layer of CLIP runs for nothing
    assert sum(counter.get_total_flops() for counter in used) == pytest.approx(published.tower_flops(small))


def test_the_rehearsal_measures_every_case(published, load, tmp_path):
    out = tmp_path / "results" / "rehearsal.json"
    page = load("published_page").PAGE.read_bytes()
    published.main(["--preset", "rehearsal", "--out", str(out)])
    assert load("published_page").PAGE.read_bytes() == page
    text = out.read_text()
    assert str(ROOT) not in text
    assert str(tmp_path) not in text
    results = json.loads(text)
    preset = published.PRESETS["rehearsal"]
    shape = preset.scale(published.SHAPES["LLaVA-NeXT-7B"])
    parts = [(results["prefill"], published.next_cases(shape.config, shape.tokens, preset.easier), {"seconds"})]
    for name, real in published.TABLE_4.items():
        small = preset.scale(real)
        part = results["generation"][name]
        assert part["tokens"] == list(small.tokens)
        parts.append((part, published.half_cases(small.config, small.tokens), {"first", "rest"}))
    for part, cases, times in parts:
        assert list(part["cases"]) == ["full", "full again", *(case.name for case in cases)]
        assert set(part["cases"]["full"]) == times
        for case in cases:
            row = part["cases"][case.name]
            assert set(row) == {*times, "kept", "FLOPs", "KV"}
            counts = keep_counts(case.keep(part["layers"]), part["tokens"][1]).tolist()
            cuts = {0: counts[0]} | {i: n for i, n in enumerate(counts) if i and n < counts[i - 1]}
            assert row["kept"] == {str(layer): count for layer, count in cuts.items()}
            assert all(len(row[part][clock]) == 1 for part in times for clock in ("wall", "cpu"))
    published.main(["--preset", "rehearsal", "--out", str(out), "--only", "generation"])
    again = json.loads(out.read_text())
    assert again["prefill"] == results["prefill"]
    assert again["generation"] != results["generation"]
    assert set(load("published_page").tables(results)) == {"prefill", "choosing", "generation", "mob"}


def test_dense_cases_run_on_matrices_of_attention_and_give_the_kernel_back(published):
    shape = published.PRESETS["rehearsal"].scale(published.TABLE_4["LLaVA-1.5-7B"])
    model, inputs = shape.build("cpu", torch.float32), shape.inputs("cpu", torch.float32)
    [one, _] = published.half_cases(shape.config, shape.tokens)
    seen = []
    text = model.config.get_text_config()
    model.get_decoder().register_forward_pre_hook(lambda *_: seen.append(text._attn_implementation))
    sides = published._sides(model, [one, replace(one, name="dense", dense=True)], {})
    for name in ("full", "dense", one.name):
        with sides[name](), torch.no_grad():
            model(**inputs)
    assert seen == ["sdpa", "vispco_eager", "vispco_sdpa"]


CASES = {
    "full": {"seconds": {"cpu": [10.0, 20.0], "wall": [11.0, 22.0]}},
    "full again": {"seconds": {"cpu": [10.0, 20.0], "wall": [11.0, 22.0]}},
    "FastV": {"seconds": {"cpu": [2.0, 4.0], "wall": [2.2, 4.4]}, "FLOPs": 0.1, "KV": 0.15},
    "Random, as FastV": {"seconds": {"cpu": [1.0, 2.0], "wall": [2.2, 4.4]}, "FLOPs": 0.1, "KV": 0.15},
    "SparseVLM": {"seconds": {"cpu": [3.0, 6.0], "wall": [3.3, 6.6]}, "FLOPs": 0.12, "KV": 0.2},
}


def test_tables_compare_within_rounds(load, monkeypatch):
    page = load("published_page")
    rows = {line.split(" | ")[0][2:]: line.split(" | ") for line in page.prefill_table(CASES).splitlines()}
    assert rows["SparseVLM"][1:4] == ["0.156", "0.120", "0.200"]
    assert rows["SparseVLM"][4] == "0.639"  # 23:11 of 36:16
    assert rows["SparseVLM"][5] == "0.300 [0.300, 0.300]"
    assert rows["SparseVLM"][7] == "2.50"
    assert rows["SparseVLM"][8:] == ["1.268", "1.500 [1.500, 1.500] |"]
    monkeypatch.setattr(page, "CONTROLS", {"FastV": "Random, as FastV"})
    assert page.choosing_table(CASES).splitlines()[-1].split(" | ")[1:] == [
        "10.00 % [10.00, 10.00]", "100.00 % [100.00, 100.00] |"
    ]  # fmt: skip


def test_tables_of_generations(load):
    times = {"cpu": [1.0], "wall": [1.0]}
    half = {"first": {"cpu": [0.6], "wall": [0.7]}, "rest": {"cpu": [0.8], "wall": [0.5]}, "FLOPs": 0.5, "KV": 0.5}
    full = {"first": times, "rest": times}
    cases = {"full": full, "full again": full, "FastV, layer 2": half, "three cuts": half}
    part = {"cases": cases, "real decoder FLOPs": 2.0, "real tower FLOPs": 6.0}
    row = load("published_page").generation_table({"Gemma3-4B": part}).splitlines()[2].split(" | ")
    assert row[2:5] == ["0.86", "0.875", "0.500"]
    assert row[5:7] == ["0.600 [0.600, 0.600]", "0.700 [0.700, 0.700]"]
    assert row[7:] == ["1.12", "1.250 [1.250, 1.250]", "2.000 [2.000, 2.000] |"]


def test_the_page_has_the_figures_of_the_results(load):
    page = load("published_page")
    results = json.loads((ROOT / "experiments/latency/results/published_cpu.json").read_text())
    fill = importlib.import_module("experiments.selectors.page").fill
    text = page.PAGE.read_text()
    for name in page.tables(results):
        assert f"<!-- table {name} -->" in text
    assert fill(text, page.tables(results)) == text
