"""Names, questions and answers of strangers are text in reports and plots, wherever they stand."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from vispco.frontier import Interval
from vispco.report import (
    BudgetRow,
    Convergence,
    IndicatorRow,
    ReportData,
    Scores,
    TextTable,
    plot_costs,
    plot_frontiers,
    plot_schedules,
    write_report,
)

HOSTILE = [
    "</script><script>alert(1)</script>", "<!--<script>", "]]>", "</style><style>*{display:none}", "\u2028\u2029",
    "\"><img src=x onerror=alert(1)>", "' onload='x", "{{ 7 * 7 }}{% raw %}", "javascript:alert(1)", "&lt;&#60;&amp",
    "$\\frac{1}{", "$x$ \\(y\\)", "__proto__", "constructor", "a\nb\tc", "\x1b[2J\x07", "\u202etxt", "\ud800", "_" , "",
]  # fmt: skip
"""Of these the browser, the template engine, JSON, matplotlib or a terminal might make something."""


class Shape(HTMLParser):
    """Tags, names of attributes, text, and what the script is given."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.links = Counter(), [], set()
        self.sections, self.section = defaultdict(str), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag, *(name for name, _ in attrs)] += 1
        self.links |= {value.split(",")[0] for name, value in attrs if name in ("src", "href")}
        self.scripts += [""] if tag == "script" else []
        self.section = dict(attrs)["id"] if tag == "section" else self.section

    def handle_data(self, data):
        if self.lasttag == "script":
            self.scripts[-1] += data
        self.sections[self.section] += data

    def handle_comment(self, data):
        self.tags["comment"] += 1


def named(full, name):
    """The report with one text in every place that takes one; numbers at its end keep names apart."""

    def of(place):
        return f"{name}{place}"

    points = [
        point.model_copy(
            update={
                "name": of(f" {point.name}"), "selector": of(""), "split": of(""), "model": of(""), "prompt": of(""),
                "backend": of(""), "dtype": of(""), "data": of(""),
                "method": of(f" {point.method}") if point.method == "grid" else point.method,
                "slices": {of(f" {slice}"): value for slice, value in point.slices.items()},
                "costs": {**point.costs, of(" cost"): point.costs["flops"]},
                "quality": {**point.quality, of(" quality"): 0.5},
                "basis": {of(" cost"): of("")},
            }
        )
        for point in full.points
    ]  # fmt: skip
    by_name = {point.name: point for point in points}
    learned, grid = by_name[of(" learned b=0.50")], by_name[of(" grid a")]
    return ReportData(
        title=of(""), facts=[(of(" key"), of(" value"))], points=points, cost=of(" cost"),
        budgets=[BudgetRow(0.5, learned, grid, Interval(0.0, -0.1, 0.1))],
        indicators=[IndicatorRow(of(""), of(""), 1.0, 2.0)],
        overlays=[replace(full.overlays[0], question=of("?"), answer=of("!"), said=of("."))], overlaid=of(""),
        scores=Scores({learned.name: [1, 0, 1], grid.name: [1, 1, 0]}, [of(" a"), of(" a"), of(" b")]),
        convergence=Convergence(of(""), {of(" curve"): [1.0, 0.5]}), runs=[of(" run")] * len(points),
        tables=[TextTable(of(""), [of(""), of("x")], [[of(""), of("x")]])],
    )  # fmt: skip


@pytest.fixture(scope="module")
def harmless(full, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, named(full, "name"))
    return Shape(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_report_has_the_same_elements_whatever_things_are_called(text, full, harmless, tmp_path):
    write_report(tmp_path / "report.html", named(full, text))
    content = (tmp_path / "report.html").read_bytes().decode()
    shape = Shape(content)
    assert shape.tags == harmless.tags
    assert shape.links == harmless.links
    assert shape.scripts[1] == harmless.scripts[1], "our own script"
    drawn = json.loads(shape.scripts[0])
    assert {point["name"] for point in drawn["points"]} >= {f"{text} run: {text} learned b=0.50"}
    assert "\u2028" not in shape.scripts[0]
    if text.isprintable():
        for section in ("facts", "frontier", "slices", "gallery", "indicators", "tables-1"):
            assert text in shape.sections[section], section


@pytest.mark.parametrize(
    ("kind", "text"),
    [("svg", text) for text in HOSTILE]
    + [(kind, text) for kind in ("png", "pdf") for text in ("$x$ $\\frac{1}{", "\ud800\0")],
)
def test_plots_take_any_name(kind, text, full, tmp_path):
    report = named(full, text)
    plot_frontiers(report.points, tmp_path / f"a.{kind}", cost=f"{text} cost", quality=f"{text} quality", title=text)
    plot_costs(report.points, tmp_path / f"b.{kind}", f"{text} cost", "kv", title=text)
    plot_schedules([(0.5, (1.0, 0.5))], tmp_path / f"c.{kind}", title=text)
    for path in tmp_path.iterdir():
        assert path.stat().st_size > 500
        if kind == "svg":
            ElementTree.fromstring(path.read_text(encoding="utf-8"))
