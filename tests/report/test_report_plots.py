"""Figures are written whole, hold every series as text, and warn where there is no control."""

import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from vispco.errors import ConfigError, DataError, RunError
from vispco.report import plot_frontiers, plot_schedules
from vispco.report.plots import percent
from vispco.report.series import NO_CONTROLS, caution

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [(0.3, (1.0, 0.25, 0.0)), (0.525, (1.0, 0.5, 0.125))]


def texts(svg):
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_png_shows_something(compared, tmp_path):
    plot_frontiers(compared, tmp_path / "frontier.png", title="micro")
    with Image.open(tmp_path / "frontier.png") as image:
        assert min(image.size) > 800
        colors = {pixel for _, pixel in image.convert("RGB").getcolors(1 << 20)}
    assert {(0x00, 0x72, 0xB2), (0x8A, 0x90, 0x99), (0xD5, 0x5E, 0x00)} <= colors
    assert [file.name for file in tmp_path.iterdir()] == ["frontier.png"]


def test_svg_names_axes_and_every_series_once(compared, tmp_path):
    plot_frontiers(compared, tmp_path / "frontier.svg", title="a $title$ & <more>")
    found = texts((tmp_path / "frontier.svg").read_text())
    for text in (
        "learned", "learned, dominated", "exhaustive grid", "single-cut grid", "random", "FastV default", "unpruned",
        "prefill FLOPs, fraction of unpruned", "accuracy on test split", "a $title$ & <more>",
    ):  # fmt: skip
        assert found.count(text) == 1, text
    assert not any(NO_CONTROLS in text for text in found)


def test_warns_where_there_are_no_controls(searched, tmp_path):
    plot_frontiers(searched, tmp_path / "frontier.svg")
    assert texts((tmp_path / "frontier.svg").read_text()).count(f"Caution: {NO_CONTROLS}") == 1


def test_names_the_controls_that_are_missing(compared, make_point, tmp_path):
    def said(points):
        plot_frontiers(points, tmp_path / "frontier.svg")
        return [text for text in texts((tmp_path / "frontier.svg").read_text()) if "Caution" in text]

    assert said(compared) == ["Caution: missing controls: uniform_grid, downsampled"]
    rest = [make_point(f"{name} b=0.5", "control", 0.5, 0.5) for name in ("uniform_grid", "downsampled")]
    assert said([*compared, *rest]) == []
    assert caution(compared[:-1] + rest) == "Caution: missing controls: selector default"
    named = make_point("random b=0.5", "learned", 0.5, 0.5)
    assert "random" in caution([named, *rest, compared[-1]]), "what somebody searched for is no control"


def test_other_costs_and_qualities_are_named(make_point, tmp_path):
    point = make_point("a", "grid", 0.5, 0.5, costs={"kv": 0.4}, quality={"kl": 0.2}, split="validation")
    plot_frontiers([point], tmp_path / "a.svg", cost="kv", quality="kl")
    found = texts((tmp_path / "a.svg").read_text())
    assert "KV cache, fraction of unpruned" in found
    assert "KL from the unpruned model on validation split" in found


@pytest.mark.parametrize("suffix", ["pdf", "png", "svg"])
def test_drawn_twice_is_one_file(compared, tmp_path, monkeypatch, suffix):
    for name, now in (("a", 1_000_000_000), ("b", 1_700_000_000)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(now))  # what matplotlib would take for the date
        plot_frontiers(compared, tmp_path / f"{name}.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert len(content) > 10_000
    assert content == (tmp_path / f"b.{suffix}").read_bytes()


def test_staircase_runs_level_then_rises(searched, tmp_path):
    """Between two points the accuracy of the cheaper one holds."""
    plot_frontiers([point for point in searched if point.method == "grid"], tmp_path / "a.svg")
    paths = re.findall(r'<path d="([^"]*)"', (tmp_path / "a.svg").read_text())
    line = next(path for path in paths if path.count("L") == 2 and "M" in path)
    x, y, level, same, above, top = (float(number) for number in re.findall(r"[\d.]+", line))
    assert (y, level) == (same, above)
    assert (x < level, top < y) == (True, True)


@pytest.mark.parametrize("plot", [lambda path: plot_schedules(ROWS, path), None])
def test_unwritable_place_leaves_nothing(compared, tmp_path, plot):
    plot = plot or (lambda path: plot_frontiers(compared, path))
    (tmp_path / "taken.svg").mkdir()
    for place in ("taken.svg", "missing/frontier.svg"):
        with pytest.raises(RunError, match=f"{place}: cannot be written"):
            plot(tmp_path / place)
    with pytest.raises(RunError, match=r"no figure format '\.gif'"):
        plot(tmp_path / "a.gif")
    assert [file.name for file in tmp_path.rglob("*")] == ["taken.svg"]


def test_nothing_to_plot(tmp_path):
    with pytest.raises(DataError, match="no points"):
        plot_frontiers([], tmp_path / "a.png")
    with pytest.raises(DataError, match="no schedules"):
        plot_schedules([], tmp_path / "a.png")


def test_schedules_say_percent_kept(tmp_path):
    plot_schedules(ROWS, tmp_path / "schedules.svg")
    found = texts((tmp_path / "schedules.svg").read_text())
    cells = ["100", "25", "0", "100", "50", "13"]
    assert [text for text in found if text not in ("1", "2")][-len(cells) - 1 :] == [*cells, "visual tokens kept, %"]
    assert {"0.3", "0.525", "decoder layer", "budget"} <= set(found)


def test_schedules_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="2 ratios but the model has 3"):
        plot_schedules([*ROWS, (0.7, (1.0, 0.5))], tmp_path / "schedules.svg")


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.0, "0"), (0.004, "<1"), (0.005, "1"), (0.125, "13"), (0.5, "50"), (1.0, "100")]
)
def test_percent(ratio, text):
    assert percent(ratio) == text
