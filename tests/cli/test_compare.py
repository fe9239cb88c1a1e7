"""Comparisons: means over runs that differ in their seed alone, and whose line is whose."""

import json
from pathlib import Path

import pytest
from refusing import one_line

from vispco.cli import main
from vispco.cli.seeds import over_seeds, seed_groups
from vispco.frontier import Point, append_points
from vispco.report import plots

CONFIG = {"selector": {"name": "fastv"}, "data": {"seed": 0}, "tracker": {"name": "none"}, "progress": True}

FACTS = {"backend": "sdpa", "dtype": "float32", "model": "m", "prompt": "p", "data": "d", "split": "test"}
"""In which runs must agree."""


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Makes a run folder of one learned point and the unpruned one; gives its name."""
    monkeypatch.chdir(tmp_path)

    def make(name, seed, score=0.5, facts=None, **changes):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(json.dumps(CONFIG | {"seed": seed} | changes))  # JSON is YAML
        split = (FACTS | (facts or {}))["split"]
        (folder / "frontier.json").write_text(json.dumps({"report_split": split}))
        shared = dict(selector="fastv", keep=(1.0,), seed=seed, slices={}, samples=4, **FACTS | (facts or {}))
        learned = Point(
            name="learned b=0.5", method="learned", costs={"flops": 0.5}, quality={"score": score, "kl": 0.1}, **shared
        )
        full = Point(
            name="unpruned", method="unpruned", costs={"flops": 1.0}, quality={"score": 1.0, "kl": 0.0}, **shared
        )
        append_points(folder, [learned, full])
        return name

    return make


def test_only_the_seed_may_differ(make_run):
    make_run("a", 0)
    make_run("b", 1, tracker={"name": "wandb"}, progress=False)
    make_run("again", 1)
    make_run("other data", 2, data={"seed": 1})
    make_run("other selector", 3, selector={"name": "random"})
    make_run("other selector too", 4, selector={"name": "random"})
    make_run("damaged", 5)
    with open("damaged/config.yaml", "w") as file:
        file.write("{")
    names = ["a", "b", "again", "other data", "other selector", "damaged", "missing", "other selector too"]
    assert seed_groups(names) == [["a", "b"], ["other selector", "other selector too"]]


def test_mean_and_deviation_by_hand():
    """Deviations -0.3, -0.1 and 0.4 of 0.5: the variance is 0.26 / 2."""
    told = over_seeds([{"hypervolume": value} for value in (0.2, 0.4, 0.9)])
    assert told == {"hypervolume": (pytest.approx(0.5), pytest.approx(0.13**0.5))}


def test_compare_shows_them(make_run, capsys):
    """One point at half the cost: the hypervolume is half of its score."""
    runs = [make_run(name, seed, score) for seed, (name, score) in enumerate([("a", 0.4), ("b", 0.6)])]
    assert main(["compare", *runs, "--wandb", "none"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "over seeds" in out
    assert "0.2500 ± 0.0707" in out  # of 0.2 and 0.3
    assert out.count("±") == 5  # the heading and one row
    alone = [runs[0], make_run("c", 2, selector={"name": "random"})]
    assert main(["compare", *alone, "--wandb", "none"]) == 0
    assert "over seeds" not in capsys.readouterr().out


def test_a_plot_names_runs_only_to_tell_them_apart(make_run):
    runs = [make_run("a", 0), make_run("b", 1)]
    assert main(["compare", *runs, "--wandb", "none", "-o", "both.svg"]) == 0
    assert main(["compare", runs[0], "--wandb", "none", "-o", "one.svg"]) == 0
    both, one = (Path(name).read_text() for name in ("both.svg", "one.svg"))
    assert ">learned, a<" in both
    assert ">learned, b<" in both
    assert ">learned<" in one


@pytest.mark.parametrize("output", [None, "plot.png", "report.html"])
@pytest.mark.parametrize("field", FACTS)
def test_runs_of_other_facts_do_not_merge(make_run, capsys, field, output):
    runs = [make_run("a", 0), make_run("b", 0, facts={field: "other"})]
    assert main(["compare", *runs, "--wandb", "none", *(["-o", output] if output else [])]) == 2
    line = one_line(capsys)
    assert f"{field} is {FACTS[field]!r} in 'learned b=0.5' and 'other' in 'learned b=0.5'" in line
    assert output is None or not Path(output).exists()


@pytest.mark.parametrize("runs", [1, 2])
def test_missing_controls_are_told_on_the_plot(make_run, runs, monkeypatch):
    """In the figure that becomes the PNG, in the SVG, and in what the HTML page draws from."""
    warning, shown = "Caution: no controls in this comparison", []

    def render(figure, suffix):
        shown.append([axes.get_title(loc="left") for axes in figure.axes])
        return b""

    names = [make_run(name, seed) for seed, name in enumerate("ab"[:runs])]
    with monkeypatch.context() as patch:
        patch.setattr(plots, "render", render)
        assert main(["compare", *names, "--wandb", "none", "-o", "plot.png"]) == 0
    assert shown == [[warning]]
    for output in ("plot.svg", "report.html"):
        assert main(["compare", *names, "--wandb", "none", "-o", output]) == 0
        assert Path(output).read_text().count(warning) == 1
