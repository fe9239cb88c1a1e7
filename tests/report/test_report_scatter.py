"""The scatter of two costs shows every point, says how they are ordered, and refuses what cannot be drawn."""

import re
from xml.etree import ElementTree

import pytest

from vispco.errors import DataError, RunError
from vispco.report import ReportData
from vispco.report.html import render_report
from vispco.report.scatter import plot_costs


@pytest.fixture
def timed(make_point):
    pairs = [(0.3, 0.6), (0.5, 0.55), (0.7, 0.8), (0.9, 1.1)]
    found = [
        make_point(f"learned b={cost}", "learned", cost, 0.5, costs={"flops": cost, "latency": time})
        for cost, time in pairs
    ]
    return [*found, make_point("unpruned", "unpruned", 1.0, 0.9, costs={"flops": 1.0, "latency": 1.0})]


def test_axes_order_and_points(timed, tmp_path):
    def svg(points):
        plot_costs(points, tmp_path / "costs.svg")
        return (tmp_path / "costs.svg").read_text()

    root = ElementTree.fromstring(svg(timed))
    texts = [" ".join("".join(node.itertext()).split()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "prefill FLOPs, fraction of unpruned" in texts
    assert "time to first token (predicted), fraction of unpruned" in texts
    # Of ten pairs two are in the other order: 0.3 and 0.5, 0.9 and 1.
    assert "Kendall's tau 0.60 over 5 points" in texts
    assert len(re.findall(r"<use ", svg(timed))) > len(re.findall(r"<use ", svg(timed[1:])))


def test_files_are_written_whole_and_of_a_known_format(timed, tmp_path):
    plot_costs(timed, tmp_path / "costs.png", title="a")
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match=r"no figure format '\.gif'"):
        plot_costs(timed, tmp_path / "costs.gif")
    with pytest.raises(DataError, match="no points to plot"):
        plot_costs([], tmp_path / "none.png")
    with pytest.raises(DataError, match="has no cost 'kv'"):
        plot_costs(timed, tmp_path / "none.png", "flops", "kv")
    assert [path.name for path in tmp_path.iterdir()] == ["costs.png"]


def test_the_report_has_it_only_where_there_are_two_costs(timed):
    page = render_report(ReportData("a", [], timed, cost="latency"))
    assert 'id="costs"' in page
    assert "vispco bench" in page
    single = [point.model_copy(update={"costs": {"flops": 0.5}}) for point in timed]
    assert 'id="costs"' not in render_report(ReportData("a", [], single))
