"""The study of delivered time counts and adds up right, and its command runs; no time is asserted."""

import gc
import importlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from vispco import ModelCard, PruningConfig, prune
from vispco.cost import Prompt
from vispco.profiling import Pairs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("experiments.latency.delivered")
    gc.unfreeze()  # the command freezes what it finds, here all that other tests have left


def test_every_shape_is_in_every_preset(study):
    for preset in study.PRESETS.values():
        assert [shape.name.split(":")[0] for shape in preset.shapes] == list(study.SHAPES)


@pytest.mark.parametrize("preset", ["cpu", "gpu", "rehearsal"])
def test_schedules_are_within_their_budgets(study, preset):
    for shape in study.PRESETS[preset].shapes:
        cases = study.cases(shape.config, shape)
        assert list(cases) == [
            "stock against itself", "50% of the FLOPs, one cut at layer 2", "50% of the FLOPs, three cuts",
            "30% of the FLOPs, one cut at layer 2", "30% of the FLOPs, three cuts",
        ]  # fmt: skip
        for name, keep in cases.items():
            found = study.work(shape.config, shape, keep)
            if keep is None:
                assert set(found.values()) == {1.0}
            else:
                budget = float(name[:2]) / 100
                assert budget - 0.01 < found["FLOPs ratio"] <= budget
                # Attention falls by the square of the tokens, and half of it is nothing.
                assert found["FLOPs ratio"] < found["causal ratio"] < found["token ratio"]


def test_without_the_engine_layers_run_on_as_many_tokens(study, monkeypatch):
    shape = study.PRESETS["rehearsal"].shapes[6]  # Gemma 3, which has masks
    model, inputs = shape.build("cpu", torch.float32), shape.inputs("cpu", torch.float32)
    keep = study.cases(shape.config, shape)["30% of the FLOPs, three cuts"]
    seen = []

    def run_once(forward, stock, ours, device, pairs, warm_up):
        layers = model.get_decoder().layers
        hooks = [layer.mlp.register_forward_hook(lambda *call: seen.append(call[1][0].shape[1])) for layer in layers]
        with torch.no_grad(), ours():
            forward()
        for hook in hooks:
            hook.remove()
        return {"cpu": Pairs([2.0], [1.0])}

    monkeypatch.setattr(study, "time_pairs", run_once)
    forward = partial(model, **inputs, use_cache=True, logits_to_keep=1)
    found = study.without_engine(model, forward, shape, keep, "cpu", 1, 1)
    assert found == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert seen == [64 + count for count in Prompt(*shape.tokens).counts(keep)]


def test_layers_are_timed_by_their_tokens(study):
    shape = study.PRESETS["rehearsal"].shapes[0].reduced(2, 64, 100)
    times = study.by_tokens(shape.build("cpu", torch.float32), shape, "cpu", 1)
    assert tuple(times) == study.LENGTHS
    assert times[640] > times[64] > 0


def test_the_command_measures_every_case(study, monkeypatch, tmp_path, capsys):
    preset = study.PRESETS["rehearsal"]
    monkeypatch.setitem(study.PRESETS, "rehearsal", replace(preset, shapes=(preset.shapes[0], preset.shapes[0])))
    study.main(["--preset", "rehearsal", "--pairs", "1", "--warm-up", "1", "--out", str(tmp_path / "results.json")])
    results = json.loads((tmp_path / "results.json").read_text())
    assert [len(shape["cases"]) for shape in results["shapes"]] == [5, 4]
    for shape in results["shapes"]:
        for case in shape["cases"]:
            assert case["cpu time ratio"]["value"] > 0
            assert case["wall time ratio"]["value"] > 0
            above = case["cpu time ratio"]["value"] > 1.1 * case["FLOPs ratio"] and case["FLOPs ratio"] < 1
            assert ("without the engine" in case) == above
    printed = capsys.readouterr().out
    assert all(part(results) in printed for part in (study.table, study.explanation, study.lengths))


def test_the_share_of_the_engine_is_that_of_hooks_and_scores(study, monkeypatch, tmp_path, capsys):
    preset = study.PRESETS["rehearsal"]
    monkeypatch.setitem(study.PRESETS, "rehearsal", replace(preset, shapes=preset.shapes[:1]))
    study.main(["--preset", "rehearsal", "--engine", "--pairs", "1", "--out", str(tmp_path / "results.json")])
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["shapes"][0]["cases"]) == 4
    for case in results["shapes"][0]["cases"].values():
        assert 0 < case["share"] < 1
    assert study.shares(results) in capsys.readouterr().out


def test_every_hook_and_every_score_is_timed(study):
    shape = study.PRESETS["rehearsal"].shapes[0].reduced(10, 64, 100)
    model, inputs = shape.build("cpu", torch.float32), shape.inputs("cpu", torch.float32)
    config = PruningConfig(selector="fastv", keep=(1.0,) * 2 + (0.5,) * 8, model=ModelCard(type="llava", layers=10))
    with torch.no_grad(), prune(model, config), study.timed_engine("cpu") as spent:
        model(**inputs)
    # The model, its base, the decoder before and after, ten layers; and each layer's attention once.
    assert len(spent) == 14 + 10
    assert min(spent) >= 0


def result(ratio):
    case = {
        "case": "50% of the FLOPs, three cuts", "FLOPs ratio": 0.5, "causal ratio": 0.52, "token ratio": 0.55,
        "cpu time ratio": {"value": ratio, "low": 0.5, "high": 0.6},
    }  # fmt: skip
    if ratio > 0.55:
        case["without the engine"] = {"value": 0.55, "low": 0.54, "high": 0.56}
    shape = {"name": "x", "tokens": [64, 576], "cases": [case], "ms by tokens": {"64": 1.0, "640": 8.0}}
    return {"device": "cpu", "shapes": [shape]}


def test_tables_by_hand(study):
    assert study.table(result(0.561)).splitlines()[-1] == (
        "| x | 576 | 50% of the FLOPs, three cuts | 0.500 | 0.520 | 0.550 | 0.561 [0.500, 0.600] "
        "| 1.122 [1.000, 1.200] | 1.079 |"
    )
    assert study.explanation(result(0.561)).splitlines()[-1] == (
        "| x | 50% of the FLOPs, three cuts | 0.561 | 0.550 [0.540, 0.560] | 1.100 | +2.0% |"
    )
    assert len(study.explanation(result(0.54)).splitlines()) == 2
    assert study.lengths(result(0.54)).splitlines()[2:] == ["| 64 | 1.00 | 1.25 |", "| 640 | 8.00 | 1.00 |"]


def test_committed_results_are_what_the_page_says(study):
    folder = ROOT / "experiments/latency"
    results = json.loads((folder / "results/delivered_cpu.json").read_text())
    assert [shape["name"] for shape in results["shapes"]] == [shape.name for shape in study.PRESETS["cpu"].shapes]
    page = (folder / "delivered.md").read_text()
    assert all(part(results) in page for part in (study.table, study.explanation, study.lengths))
    assert study.shares(json.loads((folder / "results/delivered_engine_cpu.json").read_text())) in page


def test_pages_hold_the_tables_of_their_results(study, tmp_path):
    refresh = importlib.import_module("experiments.latency.refresh")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/some.json").write_text("[1, 2]")
    (tmp_path / "page.md").write_text("a\n<!-- sum -->\nold\n<!-- end -->\nb\n<!-- none -->\nkept\n<!-- end -->\n")
    tables = {"sum": ("some.json", lambda values: str(sum(values))), "none": ("missing.json", str)}
    assert refresh.refreshed("page.md", tables, tmp_path) == (
        "a\n<!-- sum -->\n\n3\n\n<!-- end -->\nb\n<!-- none -->\nkept\n<!-- end -->\n"
    )
    with pytest.raises(ValueError, match=r"page\.md has no place for the table 'other'"):
        refresh.refreshed("page.md", {"other": ("some.json", str)}, tmp_path)
    for page, own in refresh.PAGES.items():
        assert refresh.refreshed(page, own) == (ROOT / "experiments/latency" / page).read_text()
