"""The study of searches under time: it runs in small, and its tables say what its results hold."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"experiments.latency.{name}")


def result(seed=0, lead=0.0):
    def row(budget, time, score):
        costs = {"latency": budget, "flops": budget - 0.1}
        return {"budget": budget, "score": score, "costs": costs, "measured": {"cpu": [time, time - 0.01, time + 0.02]}}

    rows = {
        "latency": [row(0.5, 0.5, 0.6 + lead), row(0.8, 0.88, 0.8)],
        "flops": [row(0.5, 0.5, 0.6), row(0.8, 0.8, 0.8)],
    }
    return {"seed": seed, "unpruned score": 1.0, "searches": rows}


def test_what_is_delivered_is_held_against_the_budget(load):
    tables = load("search_tables")
    assert tables.over_budget(result()) == [1.0, pytest.approx(1.1)]
    assert tables.errors(result()) == [0.0, pytest.approx(0.1), 0.0, 0.0]
    first = tables.table([result()]).splitlines()[2]
    assert first.startswith("| 0 | 1.050 | 1.100 | 1 of 2 | 0.000 |")


def test_hypervolume_is_over_measured_time(load):
    tables = load("search_tables")
    assert tables.volume(result(), "flops") == pytest.approx(0.3 * 0.6 + 0.2 * 0.8)
    assert tables.volume(result(), "latency") == pytest.approx(0.38 * 0.6 + 0.12 * 0.8)
    last = tables.table([result(seed, 0.1 + 0.01 * seed) for seed in range(2)]).splitlines()[-1]
    low, high = 0.38 * 0.7 + 0.12 * 0.8, 0.38 * 0.71 + 0.12 * 0.8
    expected = 100 * ((low + high) / 2 / (0.3 * 0.6 + 0.2 * 0.8) - 1)
    assert f"{expected:+.2f} [" in last


def test_times_that_only_one_search_reaches_count_as_those_that_both_do(load):
    one = result()
    one["searches"]["flops"][0]["measured"]["cpu"][0] = 0.3
    assert load("search_tables").volume(one, "flops") == pytest.approx(0.3 * 0.6 + 0.2 * 0.8)


def test_budgets_are_averaged_over_seeds(load):
    rows = load("search_tables").budgets([result(), result(1, 0.1)]).splitlines()
    assert rows[2] == "| 0.5 | 0.500 | 0.500 | 0.500 | 0.030 wide | 0.400 | 0.650 |"


def test_the_study_runs_in_small(load, monkeypatch):
    study = load("search")
    monkeypatch.setattr(study, "SEARCHED", 24)
    monkeypatch.setattr(study, "calibrate_for", quick(study.calibrate_for))
    monkeypatch.setattr(study, "LearnedSettings", quick_settings(study.LearnedSettings))
    found = study.study(0, 16, 1, 4, (0.9, 1.0), (0.5,))
    assert [row["budget"] for row in found["searches"]["latency"]] == [1.0, 0.9]
    for rows in found["searches"].values():
        for row in rows:
            assert set(row["costs"]) == {"flops", "decode_flops", "kv", "peak", "latency", "generation"}
            assert set(row["measured"]) == {"wall", "cpu"}
            assert 0.0 <= row["score"] <= 1.0


def quick(calibrate):
    return lambda *args, **kwargs: proportional(calibrate(*args, **{**kwargs, "repeats": 1, "drift": 10.0}))


def proportional(table):
    """A table whose layers take time in proportion to their tokens, so that every budget can be met."""
    kinds = [
        kind.model_copy(
            update={
                name: curve.model_copy(update={"seconds": tuple(1e-3 * tokens for tokens in curve.tokens)})
                for name, curve in kind
                if name != "window"
            }
        )
        for kind in table.kinds
    ]
    selectors = {
        name: times.model_copy(update={"once": (0.0, 0.0), "cut": (1e-5, 0.0, 0.0, 0.0, 0.0)})
        for name, times in table.selectors.items()
    }
    return table.model_copy(update={"kinds": tuple(kinds), "selectors": selectors})


def quick_settings(settings):
    return lambda: settings(steps=2, probe_samples=4, select_samples=8, anchors=1)
