"""The program with methods that answer every budget from one set of measurements, on the embedded default."""

import json

import pytest

import vispco
from vispco.cli import main

TINY = ["data.search_samples=16", "data.report_samples=16", "search.samples=12", "progress=false", "tracker=none"]


def search(folder, *options):
    return main(["search", *TINY, *options, f"hydra.run.dir={folder}"])


def read(folder, method):
    record = json.loads((folder / "frontier.json").read_text())
    assert record["method"] == method
    points = [point for point in vispco.read_points(folder) if point.method == method]
    return record, [p for p in points if p.split == "validation"], [p for p in points if p.split == "test"]


@pytest.fixture(scope="module")
def assigned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sensitivity"
    options = ["search=sensitivity", "search.ladder=[0.5,0.2,0.05]", "budget.values=[0.8,0.5,0.3]"]
    assert search(folder, *options) == 0
    return folder


def test_sensitivity_measures_every_cut_and_what_the_program_chose(assigned):
    record, searched, reported = read(assigned, "sensitivity")
    cuts = [point for point in searched if point.budget is None]
    chosen = {point.budget: point for point in searched if point.budget is not None}
    assert len(cuts) == 7 * 3
    assert {point.samples for point in searched} == {12}
    assert set(chosen) == {0.8, 0.5, 0.3}
    for budget, point in chosen.items():
        assert budget - 0.02 < point.costs["flops"] <= budget
    assert 12 < record["indicators"]["sensitivity forwards"] < 12 * 24
    assert [config["budget"] for config in record["configs"]] == [0.8, 0.5, 0.3]
    for config in record["configs"]:
        within = [point.quality["kl"] for point in searched if point.costs["flops"] <= config["budget"]]
        assert config["quality"]["kl"] == min(within), "of all that was measured"
    names = {point.name for point in searched}
    assert {point.name for point in reported} <= names


@pytest.fixture(scope="module")
def curved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "autoprune"
    assert search(folder, "search=autoprune", "budget.values=[0.8,0.5]") == 0
    return folder


def test_autoprune_writes_a_schedule_per_budget(curved):
    record, searched, reported = read(curved, "autoprune")
    assert sorted(point.budget for point in searched) == sorted(point.budget for point in reported) == [0.5, 0.8]
    by_budget = {point.budget: point for point in searched}
    for config in record["configs"]:
        assert tuple(config["keep"]) == by_budget[config["budget"]].keep
        assert by_budget[config["budget"]].costs["flops"] <= config["budget"]
    # Unpruned answers, two layers of eight, and two schedules.
    assert 12 * (1 + 2 / 8 + 0.9) < record["indicators"]["autoprune forwards"] < 12 * (1 + 2 / 8 + 1.31)


BAD = {
    "no budget": (
        ["search=sensitivity", "search.ladder=[0.5]", "budget.values=[0.9,0.3]"],
        ["budget 0.3 is below 0.5", "[1.0, 0.5]", "smaller ratio"],
    ),
    "ladder": (["search=sensitivity", "search.ladder=[1.0]"], ["ladder [1.0] needs a ratio below 1"]),
    "ratio": (["search=sensitivity", "search.ladder=[0.5,2]"], ["search.ladder.1", "2"]),
    "gamma": (["search=autoprune", "search.gamma=-1"], ["search.gamma", "-1"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, tmp_path, capsys):
    options, words = BAD[case]
    assert search(tmp_path / "x", *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in words), lines
