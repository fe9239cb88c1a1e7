"""The report is one complete file: it says what was measured, escapes what it is given and loads nothing."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from vispco.errors import DataError, RunError
from vispco.report import BudgetRow, IndicatorRow, ReportData, TextTable, write_report
from vispco.report.html import render_report

EVIL = "</script><script>alert(1)</script>\"'&amp;"


class Page(HTMLParser):
    """What a browser would see: tags, links, the text of each section, table rows and the embedded points."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.scripts, self.rows = [], [], [], []
        self.sections, self.section, self.cell = {}, "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name.split(":")[-1] in ("src", "href", "srcset", "action")]
        if tag == "section":
            self.section = dict(attrs)["id"]
            self.sections[self.section] = ""
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append((self.section, []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag == "section":
            self.section = ""
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data):
        if self.lasttag == "script":
            self.scripts[-1] += data
        if self.section:
            self.sections[self.section] += data
        if self.cell:
            self.rows[-1][1][-1] += data.strip("\n")

    def table(self, section):
        return [cells for place, cells in self.rows if place == section]


@pytest.fixture(scope="module")
def page(data):
    return Page(render_report(data))


def test_every_budget_has_its_row(page):
    assert page.table("budgets")[1:] == [
        ["0.3", "0.300", "71.0", "70.0 at 0.300", "\N{MINUS SIGN}1.0 [\N{MINUS SIGN}3.5, +1.2]",
         "0: 100, 1\N{EN DASH}2: 50, 3: <1"],
        ["0.5", "0.500", "83.0", "\N{EN DASH}", "\N{EN DASH}", "0: 100, 1\N{EN DASH}2: 50, 3: <1"],
        ["unpruned", "1.000", "95.0", "", "", "0: 100, 1\N{EN DASH}2: 50, 3: <1"],
    ]  # fmt: skip


def test_indicators_and_their_ratios(page):
    assert page.table("indicators")[1:] == [
        ["hypervolume", "more is better", "0.45", "0.5", "0.9"],
        ["IGD+", "less is better", "0.01235", "\N{EN DASH}", "\N{EN DASH}"],
        ["spent", "FLOPs", "2.50\u2009\u00d7\u20091012", "1.00\u2009\u00d7\u20091014", "0.025"],
    ]


def test_no_columns_for_a_grid_that_was_not_run(data):
    page = Page(render_report(replace(data, budgets=data.budgets[1:], indicators=data.indicators[1:2])))
    assert page.table("budgets") == [
        ["Budget", "Prefill FLOPs", "Accuracy, %", "Learned schedule, % kept by layer"],
        ["0.5", "0.500", "83.0", "0: 100, 1\N{EN DASH}2: 50, 3: <1"],
        ["unpruned", "1.000", "95.0", "0: 100, 1\N{EN DASH}2: 50, 3: <1"],
    ]
    assert page.table("indicators") == [["Indicator", "Meaning", "Learned"], ["IGD+", "less is better", "0.01235"]]


def test_heat_map_of_schedules(page):
    assert page.table("schedules") == [
        ["Budget", "0", "1", "2", "3"],
        ["0.3", "100", "50", "50", "<1"],
        ["0.5", "100", "50", "50", "<1"],
    ]
    backgrounds = [attrs["style"] for tag, attrs in page.tags if tag == "td" and "style" in attrs]
    assert backgrounds[:2] == ["--ratio: 1.000", "--ratio: 0.500"]


def test_worst_slice_of_every_budget_is_marked(page):
    """Against 90 and 80 unpruned: 75 and 25 lose 15 and 55 points, 60 and 79 lose 30 and 1."""
    down = "\N{BLACK DOWN-POINTING TRIANGLE}\N{NO-BREAK SPACE}"
    assert page.table("slices") == [
        ["Slice", "Unpruned", "0.3", "0.5"],
        ["colour", "90.0", "75.0", f"{down}60.0"],
        ["count", "80.0", f"{down}25.0", "79.0"],
        ["all", "95.0", "71.0", "83.0"],
    ]
    assert sum(attrs.get("class") == "bad" for _, attrs in page.tags) == 2


def test_nothing_is_worst_where_nothing_is_lost(data):
    better = data.budgets[0].learned.model_copy(update={"slices": {"colour": 0.95, "extra": 0.5}})
    page = Page(render_report(replace(data, budgets=[BudgetRow(0.3, better)])))
    assert page.table("slices")[1:3] == [["colour", "90.0", "95.0"], ["count", "80.0", "\N{EN DASH}"]]
    assert page.table("slices")[3] == ["extra", "\N{EN DASH}", "50.0"]
    assert not any(attrs.get("class") == "bad" for _, attrs in page.tags)


def test_facts_and_gallery(page):
    assert page.sections["facts"].split() == ["Run", "Modelmicro", "Seed7"]
    assert "Q?said: Sanswer: A" in page.sections["gallery"]
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == ["picture to the question: Q?"]
    (slider,) = (attrs for tag, attrs in page.tags if tag == "input")
    assert (slider["min"], slider["max"]) == ("0", "3")


def test_the_policy_names_the_digest_of_the_only_script(data, page):
    (policy,) = (attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall("<script>(.*?)</script>", render_report(data), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert len(page.scripts) == 2
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_loads_nothing(data, page):
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    text = render_report(data)
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")


def test_escapes_what_it_is_given(data, make_point):
    evil = make_point(EVIL, "learned", 0.4, 0.8, slices={EVIL: 0.5})
    control = make_point(EVIL, f"control {EVIL}", 0.4, 0.8)
    grid = make_point(EVIL, "grid", 0.4, 0.8)
    wicked = ReportData(
        title=EVIL,
        facts=[(EVIL, EVIL)],
        points=[*data.points, evil, control],
        budgets=[BudgetRow(0.4, evil, grid)],
        indicators=[IndicatorRow(EVIL, EVIL, 1.0)],
        overlays=[replace(data.overlays[0], question=EVIL, answer=EVIL, said=EVIL)],
        runs=[EVIL] * (len(data.points) + 2),
        tables=[TextTable(EVIL, [EVIL], [[EVIL]])],
    )
    page = Page(render_report(wicked))
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script", "script"]
    assert f"{EVIL}: {EVIL}" in {point["name"] for point in json.loads(page.scripts[0])["points"]}
    for section, times in {"facts": 2, "indicators": 2, "slices": 1, "gallery": 3, "tables-1": 3}.items():
        assert page.sections[section].count(EVIL) == times, section
    assert EVIL in [attrs.get("title") for _, attrs in page.tags]


def test_empty_parts_are_left_out(searched):
    page = Page(render_report(ReportData("bare", [], searched)))
    assert list(page.sections) == ["frontier"]
    drawn = json.loads(page.scripts[0])
    assert drawn["warning"] == "Caution: no controls in this comparison"
    assert (drawn["slices"], drawn["pictures"], drawn["convergence"]) == (None, [], None)


def test_refuses_points_of_another_split(data, make_point):
    other = make_point("learned b=0.30", "learned", 0.3, 0.9, split="validation")
    with pytest.raises(DataError, match="split is 'test'"):
        render_report(replace(data, budgets=[BudgetRow(0.3, other)]))
    with pytest.raises(DataError, match="no points"):
        render_report(ReportData("empty", [], []))


def test_written_whole_or_not_at_all(data, tmp_path):
    write_report(tmp_path / "report.html", data)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(data)
    (tmp_path / "taken").mkdir()
    for place in ("taken", "missing/report.html"):
        with pytest.raises(RunError, match=f"{place}: cannot be written"):
            write_report(tmp_path / place, data)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["report.html", "taken"]
