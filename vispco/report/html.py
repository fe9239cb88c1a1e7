"""The report of a run: one HTML file that needs nothing but a browser, neither network nor other files.

Tables are made here. Charts are drawn in the browser by the scripts in ``page/`` from the payload embedded in the file;
the page's policy names the digest of that one script, so that no other can run, whatever the data hold.
"""

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from vispco.errors import DataError
from vispco.frontier import Point, comparable
from vispco.report.data import ReportData
from vispco.report.files import write_whole
from vispco.report.overlays import image_uri
from vispco.report.payload import QUALITY, payload, runs_of
from vispco.report.plots import COST_NAMES, percent
from vispco.report.slices import worst_of

SCRIPTS = (
    "base",
    "state",
    "front",
    "axes",
    "details",
    "legend",
    "chart",
    "schedules",
    "slices",
    "pictures",
    "curves",
    "main",
)
"""Files of the script in the order in which they are read."""


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
    write_whole(path, render_report(data).encode("utf-8", "backslashreplace"))  # paths may hold what is no Unicode


def render_report(data: ReportData) -> str:
    """Text of the HTML file; raises the DataError of :func:`write_report`."""
    shown = [point for row in data.budgets for point in (row.learned, row.grid) if point]
    if not data.points:
        raise DataError("no points to show; give at least one evaluated point")
    comparable([*data.points, *shown])
    drawn, script = payload(data), script_text()
    return _template().render(
        data=data,
        payload=drawn,
        script=Markup(script),  # ours, not data
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(_page("style.css")),
        unpruned=data.unpruned,
        slices=_slices(data.unpruned, [row.learned for row in data.budgets]),
        cost=data.cost,
        cost_name=COST_NAMES.get(data.cost, data.cost),
        quality=QUALITY,
        gallery=[(overlay, image_uri(overlay.image)) for overlay in data.overlays],
    )


@cache
def script_text() -> str:
    """The page's script."""
    return '\n"use strict";\n' + "\n".join(_page(f"{name}.js") for name in SCRIPTS)


def _page(name: str) -> str:
    return (files("vispco.report") / "page" / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("vispco.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the first is what is shown first
    environment.filters.update(percent=percent, runs=runs_of, points=_percentage_points, number=_number)
    return environment.get_template("report.html.j2")


def _slices(unpruned: Point | None, learned: Sequence[Point]) -> list[SliceRow]:
    """One row per slice that any of the points has; a slice is worst only if something is lost on it."""
    baseline = unpruned.slices if unpruned else {}
    names = list(dict.fromkeys(name for slices in (baseline, *(point.slices for point in learned)) for name in slices))
    worst = [
        worst_of({name: baseline[name] - point.slices[name] for name in baseline if name in point.slices})
        for point in learned
    ]
    return [
        SliceRow(
            name,
            baseline.get(name),
            [SliceCell(point.slices.get(name), name == bad) for point, bad in zip(learned, worst, strict=True)],
        )
        for name in names
    ]


def _percentage_points(difference: float) -> str:
    """Difference of two fractions with its sign: ``+1.2``."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def _number(value: float) -> str:
    """Four significant digits; a power of ten where plain digits would be long."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return Markup("{}&thinsp;&times;&thinsp;10<sup>{}</sup>").format(mantissa, int(exponent))
    return f"{value:.4g}"
