"""The studies of searches run, tiny, and measure what they say."""

import pytest

from experiments.ablations import study as ablations
from experiments.kernels import study as kernels
from experiments.models import study as models
from experiments.search_cost import study as cost
from experiments.search_cost.measuring import area

FEW = {"steps": 2, "batch": 2, "probe_samples": 8, "select_samples": 8, "start_levels": 4, "anchors": 2}


def test_area_is_a_staircase_over_costs():
    assert area([(0.5, 0.6), (1.0, 1.0)]) == pytest.approx(0.3)
    assert area([(0.5, 0.6), (0.75, 0.4), (0.25, 0.2), (1.0, 1.0)]) == pytest.approx(0.25 * 0.2 + 0.5 * 0.6)


def test_every_method_spends_about_the_same_and_holds_its_budgets(monkeypatch):
    monkeypatch.setattr(cost, "TRIAL", 4)
    monkeypatch.setattr(cost, "LADDER", (1.0, 0.3, 0.05))
    rivals = {
        "random 10": cost.search_random(10),
        "tpe 12": cost.search_sampled("tpe", 12),
        "sensitivity": cost.search_sensitivity,
    }
    monkeypatch.setattr(cost, "RIVALS", rivals)
    result = cost.run_seed(0, 48, 16, 12, 48, **FEW)
    methods = result["methods"]
    assert set(methods) == {"learned", *rivals, "grid"}
    for name in rivals:
        assert methods[name]["samples"] < 48
        assert methods[name]["forwards"] == pytest.approx(methods["learned"]["forwards"], rel=0.35)
    for method in methods.values():
        assert 0 < method["hypervolume"] < 1
        for budget, point in method["points"].items():
            assert point["search cost"] <= float(budget)
    assert all(point["regret"] == 0 for point in methods["grid"]["points"].values())


def test_ablations_change_what_they_name():
    names = ("as shipped", "starts alone (no training)", "even starts alone", "penalty without multiplier",
             "soft multiplier step", "fixed centres")  # fmt: skip
    [result] = ablations.run(range(1), 24, 16, names, **FEW)
    keeps = {name: [tuple(p["keep"]) for p in found["points"].values()] for name, found in result["found"].items()}
    assert set(keeps) == set(names)
    assert keeps["even starts alone"] != keeps["starts alone (no training)"]
    assert keeps["fixed centres"] != keeps["as shipped"]
    assert all(len(note["violation"]) == 2 for note in result["search"].values())
    cuts = {
        tuple(layer for layer in range(1, 8) if keep[layer] < keep[layer - 1] - 0.01)
        for keep in keeps["even starts alone"]
    }
    assert all(len(cut) <= 3 for cut in cuts)


def test_kernels_are_all_there(monkeypatch):
    monkeypatch.setattr(kernels, "BUDGETS", (0.4, 0.8))
    [result] = kernels.run(range(1), 16, 8, **FEW)
    assert set(result["found"]) == set(kernels.KERNELS)
    assert all(set(found["points"]) == {"0.4", "0.8"} for found in result["found"].values())


def test_schedules_move_to_models_of_another_depth():
    assert models.rescale((1.0, 1.0, 0.5, 0.1), 4) == (1.0, 1.0, 0.5, 0.1)
    assert models.rescale((1.0, 1.0, 0.5, 0.1), 2) == (1.0, 0.5)
    assert models.rescale((1.0, 0.5), 4) == (1.0, 1.0, 0.5, 0.5)
    assert models.recipes(8)["halves at quarters of the depth"] == (1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125)


def test_models_and_slices_are_compared(monkeypatch):
    monkeypatch.setattr(models, "BUDGETS", (0.5, 0.8))
    cells, moved = models.compare(0, 12, 8, ("micro-llava", "micro-gemma3"), ("fastv",), **FEW)
    assert set(cells) == {"micro-llava, fastv", "micro-gemma3, fastv"}
    assert set(moved["micro-gemma3"]["found"]) == {"micro-llava", "micro-gemma3"}
    own = moved["micro-gemma3"]["found"]["micro-gemma3"]["points"]
    assert {len(point["keep"]) for point in own.values()} == {6}
    slices = models.across_slices(0, 32, 16, **FEW)
    assert set(slices) == set(models.GROUPS)
    assert set(slices["one thing"]["found"]) == {"one thing", "many things", "all"}
