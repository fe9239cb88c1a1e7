"""What the page's script draws from: points, how they are grouped and styled, slices, masks, convergence."""

import math
from collections.abc import Sequence
from itertools import combinations, groupby
from typing import Any

from vispco.errors import DataError
from vispco.frontier import Point, rank_correlation
from vispco.frontier.indicators import DISTANCES
from vispco.report.data import ReportData
from vispco.report.overlays import drawn
from vispco.report.plots import COST_NAMES, QUALITY_NAMES, percent
from vispco.report.series import COLORS, INK, STYLES, Group, caution, group_points
from vispco.report.slices import slice_bars

QUALITY = "score"
LEARNED = STYLES["learned"].color
THEMED = {INK: "var(--ink)", LEARNED: "rgb(var(--learned))"}
"""Colours that the page's style sheet has a light and a dark shade of."""


def payload(data: ReportData) -> dict[str, Any]:
    """Everything that is drawn, as JSON.

    Raises
    ------
    DataError
        If points lack the cost of the budgets, a run's name is missing, or a mask does not fit its grid.
    """
    points = list(data.points)
    if data.runs and len(data.runs) != len(points):
        raise DataError(f"{len(data.runs)} names of runs for {len(points)} points; name the run of every point")
    costs = shared_costs(points)
    if data.cost not in costs:
        raise DataError(f"cost {data.cost!r} is not known of all points, or not the same; choose one of {costs}")
    index = {point.name: place for place, point in reversed(list(enumerate(points)))}
    return {
        "costs": {cost: COST_NAMES.get(cost, cost) for cost in costs},
        "cost": data.cost,
        "qualities": {
            quality: {"name": QUALITY_NAMES.get(quality, quality), "less": quality in DISTANCES}
            for quality in _shared([point.quality for point in points])
        },
        "quality": QUALITY,
        "split": points[0].split,
        "points": [_point(point, name, data) for point, name in zip(points, _names(data), strict=True)],
        "unpruned": points.index(data.unpruned) if data.unpruned else None,
        "groups": [_group(group, run, color, points) for run, color, group in _groups(data)],
        "warning": caution(points),
        "tau": _ranks(points, costs),
        "budgets": [
            {
                "name": f"{row.budget:g}",
                "learned": index.get(row.learned.name),
                "grid": index.get(row.grid.name) if row.grid else None,
            }
            for row in data.budgets
        ],
        "slices": _slices(data),
        "pictures": [drawn(overlay) for overlay in data.overlays],
        "layers": len(points[0].keep),
        "convergence": _curves(data),
    }


def shared_costs(points: Sequence[Point]) -> list[str]:
    """Costs that every point has, and all on the same basis; those with names of their own first."""
    shared = _shared([point.costs for point in points])
    same = [cost for cost in shared if len({point.basis.get(cost) for point in points}) == 1]
    return [cost for cost in COST_NAMES if cost in same] + [cost for cost in same if cost not in COST_NAMES]


def runs_of(keep: Sequence[float]) -> str:
    """Schedule in percent, equal neighbours together: ``0-1: 100, 2-5: 52, 6: 0``."""
    parts = []
    for text, group in groupby(enumerate(map(percent, keep)), key=lambda item: item[1]):
        layers = [layer for layer, _ in group]
        place = str(layers[0]) if len(layers) == 1 else f"{layers[0]}\N{EN DASH}{layers[-1]}"
        parts.append(f"{place}: {text}")
    return ", ".join(parts)


def _shared(numbers: Sequence[dict[str, float]]) -> list[str]:
    return [key for key in numbers[0] if all(key in each for each in numbers)]


def _names(data: ReportData) -> list[str]:
    """Names of the points, after their run where there are several."""
    if not data.runs:
        return [point.name for point in data.points]
    return [f"{run}: {point.name}" for run, point in zip(data.runs, data.points, strict=True)]


def _point(point: Point, name: str, data: ReportData) -> dict[str, Any]:
    ends = data.scores.mean(point.name) if data.scores and point.name in data.scores.of else None
    return {
        "name": name,
        "selector": point.selector,
        "samples": point.samples,
        "costs": point.costs,
        "quality": point.quality,
        "ends": ends and ends[1:],
        "keep": point.keep,
        "text": runs_of(point.keep),
        "slices": point.slices,
    }


def _groups(data: ReportData) -> list[tuple[str, str | None, Group]]:
    """Groups with the name of their run and its colour; without both where there is one run."""
    if not data.runs:
        return [("", None, group) for group in group_points(data.points)]
    found: list[tuple[str, str | None, Group]] = []
    palette = (LEARNED, *COLORS)
    for place, run in enumerate(dict.fromkeys(data.runs)):
        mine = [point for point, name in zip(data.points, data.runs, strict=True) if name == run]
        found += [(run, palette[place % len(palette)], group) for group in group_points(mine)]
    return found


def _group(group: Group, run: str, color: str | None, points: Sequence[Point]) -> dict[str, Any]:
    style, places = group.style, {id(point): place for place, point in enumerate(points)}
    chosen = color or style.color
    return {
        "label": f"{run}: {group.label}" if run else group.label,
        "color": THEMED.get(chosen, chosen),
        "marker": style.marker,
        "size": style.size,
        "line": style.line,
        "width": style.width,
        "rest": group.rest,
        "members": [places[id(point)] for point in group.members],
    }


def _ranks(points: Sequence[Point], costs: Sequence[str]) -> dict[str, float]:
    """Kendall's tau of every pair of costs, as "first second" in the order of ``costs``, where there is an order."""
    found = {}
    for first, second in combinations(costs, 2):
        if all(len({point.costs[cost] for point in points}) > 1 for cost in (first, second)):
            found[f"{first} {second}"] = rank_correlation(points, first, second)
    return found


def _curves(data: ReportData) -> dict[str, Any] | None:
    """Curves; what is no finite number is left out of them, as JSON has none."""
    if data.convergence is None:
        return None
    curves = {
        name: [value if math.isfinite(value) else None for value in values]
        for name, values in data.convergence.curves.items()
    }
    return {"axis": data.convergence.axis, "curves": curves}


def _slices(data: ReportData) -> dict[str, Any] | None:
    """Bars of what the budgets' rows hold, if single samples' scores are known."""
    if data.scores is None:
        return None
    names = [row.learned.name for row in data.budgets] + [row.grid.name for row in data.budgets if row.grid]
    known = [name for name in dict.fromkeys(names) if name in data.scores.of]
    unpruned = data.unpruned
    baseline = unpruned.name if unpruned and unpruned.name in data.scores.of else None
    return slice_bars(data.scores, known, baseline) if known else None
