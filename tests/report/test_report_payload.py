"""What the page draws from says what the points say."""

from dataclasses import replace

import pytest

from vispco.errors import DataError
from vispco.report import ReportData
from vispco.report.payload import payload, runs_of


def test_costs_are_those_of_all_points_and_of_one_basis(make_point):
    several = {"flops": 0.5, "kv": 0.4, "latency": 0.7, "zeal": 0.1, "peak": 0.2}
    points = [
        make_point("a", "grid", 0.5, 0.5, costs=several, basis={"latency": "table a", "peak": "same"}),
        make_point("b", "grid", 0.5, 0.5, costs={"zeal": 0.2, **several}, basis={"latency": "table b", "peak": "same"}),
    ]
    assert list(payload(ReportData("t", [], points))["costs"]) == ["flops", "kv", "peak", "zeal"]
    with pytest.raises(DataError, match=r"cost 'latency' is not known of all points, or not the same"):
        payload(ReportData("t", [], points, cost="latency"))


def test_ranks_of_every_pair_of_costs(make_point):
    """Of three pairs of points one is in the other order, and a cost that is the same everywhere has no order."""
    pairs = [(0.1, 0.2), (0.2, 0.1), (0.3, 0.3)]
    points = [
        make_point(str(a), "grid", a, 0.5, costs={"flops": a, "kv": b, "peak": 1.0, "decode_flops": -a})
        for a, b in pairs
    ]
    found = payload(ReportData("t", [], points))["tau"]
    assert found == {
        "flops decode_flops": -1.0,
        "flops kv": pytest.approx(1 / 3),
        "decode_flops kv": pytest.approx(-1 / 3),
    }


def test_points_with_intervals_and_schedules(full):
    found = payload(full)
    points = {point["name"]: point for point in found["points"]}
    assert points["grid b"]["ends"] is None
    low, high = points["learned b=0.50"]["ends"]
    assert low < 0.5 < high
    assert points["grid a"]["text"] == "0\N{EN DASH}1: 100, 2: 13, 3: 0"
    assert found["points"][found["unpruned"]]["name"] == "unpruned"
    assert [row["name"] for row in found["budgets"]] == ["0.5", "0.3"]
    grid = found["budgets"][0]["grid"]
    assert (found["points"][grid]["name"], found["budgets"][1]["grid"]) == ("grid a", None)
    assert list(found["slices"]["bars"]) == ["learned b=0.50", "grid a"]
    assert found["convergence"]["curves"]["loss"] == [0.5, None, 0.25]


def test_groups_hold_every_point_once(compared):
    found = payload(ReportData("t", [], compared))
    assert sorted(index for group in found["groups"] for index in group["members"]) == list(range(len(compared)))
    assert [group["label"] for group in found["groups"] if group["rest"]] == ["learned"]
    assert found["warning"] == "Caution: missing controls: uniform_grid, downsampled"


def test_no_warning_where_all_controls_are(compared, make_point):
    rest = [make_point(f"{name} b=0.5", "control", 0.5, 0.5) for name in ("uniform_grid", "downsampled")]
    assert payload(ReportData("t", [], [*compared, *rest]))["warning"] is None


def test_runs_are_drawn_apart(compared):
    twins = [point.model_copy() for point in compared]
    data = ReportData("t", [], [*compared, *twins], runs=["a"] * len(compared) + ["b"] * len(compared))
    found = payload(data)
    groups = found["groups"]
    assert len({point["name"] for point in found["points"]}) == 2 * len(compared)
    assert [group["label"] for group in groups[:7]] == [
        "a: learned", "a: exhaustive grid", "a: single-cut grid", "a: random", "a: FastV default", "a: unpruned",
        "b: learned",
    ]  # fmt: skip
    colors = {run: {group["color"] for group in groups if group["label"].startswith(run)} for run in "ab"}
    assert [len(each) for each in colors.values()] == [1, 1]
    assert colors["a"] != colors["b"]
    assert all(found["points"][index]["name"].startswith("b: learned") for index in groups[6]["members"])
    with pytest.raises(DataError, match="23 names of runs for 24 points"):
        payload(replace(data, runs=data.runs[1:]))


def test_equal_neighbours_stand_together():
    assert runs_of((1.0, 0.504, 0.496, 0.004)) == "0: 100, 1\N{EN DASH}2: 50, 3: <1"
