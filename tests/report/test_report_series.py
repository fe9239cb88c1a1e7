"""Points fall into the series that the legend names, and searched methods show their frontiers."""

import pytest

from vispco.errors import DataError
from vispco.report.series import group_series


def names(points):
    return [point.name for point in points]


def test_one_series_per_method_and_per_control(compared):
    series = {entry.label: entry for entry in group_series(compared)}
    assert list(series) == ["learned", "exhaustive grid", "single-cut grid", "random", "FastV default", "unpruned"]
    assert names(series["exhaustive grid"].main) == ["grid b", "grid a"]
    assert names(series["single-cut grid"].main) == ["step a"]
    assert names(series["learned"].main) == ["learned b=0.30", "learned b=0.50"]
    assert names(series["learned"].dominated) == ["learned b=0.70"]
    assert names(series["random"].main) == ["random b=0.30", "random b=0.50"]
    assert names(series["FastV default"].main) == ["FastV default"]
    assert [label for label, entry in series.items() if entry.dominated] == ["learned"]


def test_budgets_with_one_schedule_are_not_dominated(make_point):
    series = group_series([make_point(f"learned b={b}", "learned", 0.5, 0.8, budget=b) for b in (0.5, 0.6)])
    assert (names(series[0].main), names(series[0].dominated)) == (["learned b=0.5"], [])


def test_lines_join_what_was_searched_only(compared, make_point):
    series = group_series([*compared, make_point("tpe 1", "tpe", 0.4, 0.6), make_point("tpe 2", "tpe", 0.5, 0.5)])
    assert [entry.label for entry in series if entry.style.line] == [
        "learned", "exhaustive grid", "single-cut grid", "tpe",
    ]  # fmt: skip
    assert names(series[3].main) == ["tpe 1"]


def test_controls_differ_in_colour_and_marker(make_point):
    styles = [entry.style for entry in group_series([make_point(f"c{i} b=0.5", "control", 0.5, 0.5) for i in range(9)])]
    assert len({style.color for style in styles[:5]}) == len({style.marker for style in styles[:5]}) == 5
    assert len({(style.color, style.marker) for style in styles}) == 9


def test_control_named_like_a_method_stays_a_control(make_point):
    series = group_series([make_point("grid b=0.5", "control", 0.5, 0.5), make_point("x", "grid", 0.4, 0.9)])
    assert [(entry.label, bool(entry.style.line)) for entry in series] == [("exhaustive grid", True), ("grid", False)]


def test_distances_are_minimised(make_point):
    points = [make_point(f"grid {kl}", "grid", cost, 0.5, quality={"kl": kl}) for cost, kl in ((0.2, 0.5), (0.4, 0.1))]
    assert names(group_series(points, quality="kl")[0].main) == ["grid 0.5", "grid 0.1"]


def test_refuses_points_that_do_not_merge_or_lack_a_number(make_point):
    with pytest.raises(DataError, match="split"):
        group_series([make_point("a", "control", 0.5, 0.5), make_point("b", "control", 0.5, 0.5, split="train")])
    with pytest.raises(DataError, match="'a' has no cost 'kv'"):
        group_series([make_point("a", "control", 0.5, 0.5)], cost="kv")
