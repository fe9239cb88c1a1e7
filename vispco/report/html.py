"""The report of a run: one HTML file that needs nothing but a browser, neither network nor other files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from vispco.frontier import Interval, Point, comparable
from vispco.report.files import write_whole
from vispco.report.overlays import Overlay, panels
from vispco.report.plots import COST_NAMES, Mark, cost_label, frontier_svg, percent, quality_label
from vispco.report.scatter import costs_svg

QUALITY = "score"


@dataclass(frozen=True)
class BudgetRow:
    """What was learned for one budget.

    Attributes
    ----------
    budget : float
        Allowed cost as a fraction of the unpruned prefill.
    learned : Point
    grid : Point or None
        What the exhaustive grid chose within the same budget, on the same search split, if there is one.
    regret : Interval or None
        Accuracy of ``grid`` minus accuracy of ``learned``, as fractions, paired by sample, at level 0.95; below 0 the
        learned one wins.
    """

    budget: float
    learned: Point
    grid: Point | None = None
    regret: Interval | None = None


@dataclass(frozen=True)
class IndicatorRow:
    """One number that compares frontiers, e.g. hypervolume, IGD+, epsilon or the model FLOPs spent on the search.

    Attributes
    ----------
    name, note : str
        What it is called; in which direction it is better, or what its unit is.
    learned : float
    exhaustive : float or None
        Of the exhaustive grid, where it has one; the report adds the ratio learned / exhaustive.
    """

    name: str
    note: str
    learned: float
    exhaustive: float | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes
    ----------
    title : str
    facts : sequence of (key, value)
        What was run on what: model, data, selector, seed, versions.
    points : sequence of Point
        All points of the comparison; one of method "unpruned" gives the slices their baseline. If all of them know
        their "latency", FLOPs are plotted against it.
    cost : str
        What budgets limit.
    budgets : sequence of BudgetRow
    indicators : sequence of IndicatorRow
    overlays : sequence of Overlay
        A few; they make up most of the file.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    points: Sequence[Point]
    cost: str = "flops"
    budgets: Sequence[BudgetRow] = ()
    indicators: Sequence[IndicatorRow] = ()
    overlays: Sequence[Overlay] = ()


class SliceCell(NamedTuple):
    """Accuracy of one budget on one slice; ``worst`` where the budget loses most against the unpruned model."""

    score: float | None
    worst: bool


class SliceRow(NamedTuple):
    """Accuracy on one slice: of the unpruned model, and of every budget."""

    name: str
    unpruned: float | None
    cells: list[SliceCell]


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Write the report whole or not at all. Whatever comes from ``data`` is escaped.

    Raises
    ------
    DataError
        If there are no points, if they do not merge or lack a number, or if a mask does not fit its grid.
    RunError
        If the place cannot be written.
    """
    write_whole(path, render_report(data).encode())


def render_report(data: ReportData) -> str:
    """Text of the HTML file; raises the DataError of :func:`write_report`."""
    shown = [point for row in data.budgets for point in (row.learned, row.grid) if point]
    comparable([*data.points, *shown])
    svg, marks = frontier_svg(data.points, cost=data.cost, quality=QUALITY)
    timed = all("latency" in point.costs for point in data.points)
    unpruned = next((point for point in data.points if point.method == "unpruned"), None)
    return _template().render(
        data=data,
        figure=Markup(svg),  # matplotlib has escaped the names in it
        marks=[_mark(mark, data.cost) for mark in marks],
        cost_label=cost_label(data.cost),
        quality_label=quality_label(QUALITY, data.points[0].split),
        unpruned=unpruned,
        slices=_slices(unpruned, [row.learned for row in data.budgets]),
        gallery=[(overlay, panels(overlay)) for overlay in data.overlays],
        cost=data.cost,
        cost_name=COST_NAMES[data.cost],
        scatter=Markup(costs_svg(data.points)) if timed else None,
        quality=QUALITY,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("vispco.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, runs=_runs, points=_percentage_points, number=_number)
    return environment.get_template("report.html.j2")


def _mark(mark: Mark, cost: str) -> dict[str, Any]:
    """What hovering shows."""
    point = mark.point
    return {
        "name": point.name,
        "cost": point.costs[cost],
        "score": point.quality[QUALITY],
        "schedule": _runs(point.keep),
        "x": mark.x,
        "y": mark.y,
    }


def _slices(unpruned: Point | None, learned: Sequence[Point]) -> list[SliceRow]:
    """One row per slice that any of the points has; a slice is worst only if something is lost on it."""
    baseline = unpruned.slices if unpruned else {}
    names = list(dict.fromkeys(name for slices in (baseline, *(point.slices for point in learned)) for name in slices))
    worst = []
    for point in learned:
        losses = {name: baseline[name] - point.slices[name] for name in baseline if name in point.slices}
        largest = max(losses, key=lambda name: losses[name], default=None)
        worst.append(largest if largest is not None and losses[largest] > 0.0 else None)
    return [
        SliceRow(
            name,
            baseline.get(name),
            [SliceCell(point.slices.get(name), name == bad) for point, bad in zip(learned, worst, strict=True)],
        )
        for name in names
    ]


def _runs(keep: Sequence[float]) -> str:
    """Schedule in percent, equal neighbours together: ``0-1: 100, 2-5: 52, 6: 0``."""
    parts = []
    for text, group in groupby(enumerate(map(percent, keep)), key=lambda item: item[1]):
        layers = [layer for layer, _ in group]
        place = str(layers[0]) if len(layers) == 1 else f"{layers[0]}\N{EN DASH}{layers[-1]}"
        parts.append(f"{place}: {text}")
    return ", ".join(parts)


def _percentage_points(difference: float) -> str:
    """Difference of two fractions with its sign: ``+1.2``."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def _number(value: float) -> str:
    """Four significant digits; a power of ten where plain digits would be long."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return Markup("{}&thinsp;&times;&thinsp;10<sup>{}</sup>").format(mantissa, int(exponent))
    return f"{value:.4g}"
