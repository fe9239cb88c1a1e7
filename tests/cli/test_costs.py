"""Budgets of any cost, limits on others, and tables of times through the program."""

import json
from functools import partial
from importlib import import_module

import pytest
from refusing import one_line
from timing import in_proportion

import vispco
from vispco.cli import main
from vispco.cost import LatencyTable
from vispco.profiling.calibration import calibrate_for

TINY = [
    "data.search_samples=12", "data.report_samples=10", "data.batch_size=8", "tracker=none", "progress=false",
    "kernel.steps=2", "data.cache_gib=0",
]  # fmt: skip
LEARNED = [
    "search.samples=12",
    "search.steps=2",
    "search.probe_samples=4",
    "search.select_samples=6",
    "search.anchors=1",
]
UNTIMED = {"flops", "decode_flops", "kv", "peak"}


def search(folder, *options):
    return main(["search", *TINY, *options, f"hydra.run.dir={folder}"])


def verified(folder, method):
    points = [point for point in vispco.read_points(folder) if point.split == "test"]
    return [point for point in points if point.method == method]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """A table of one round: it is as good for what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            import_module("vispco.cli.profile"), "calibrate_for", partial(calibrate_for, repeats=1, drift=10.0)
        )
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Times of the embedded model in this process."""
    path = tmp_path_factory.mktemp("times") / "latency.json"
    arguments = [
        "profile",
        "-o",
        str(path),
        *TINY,
        "cost=latency",
        "cost.batch=2",
        "cost.clock=cpu",
        "cost.new_tokens=4",
    ]
    assert main([*arguments, "budget.values=[1.0]"]) == 0
    return path


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("learned", LEARNED),
        ("grid", ["search=grid", "search.ladder=[1.0,0.3,0.05]"]),
        ("tpe", ["search=tpe", "search.trials=25", "search.samples=12"]),
        ("sensitivity", ["search=sensitivity", "search.samples=12", "search.ladder=[0.4,0.05]"]),
    ],
)
def test_every_kind_of_search_holds_budgets_and_limits(tmp_path, method, options):
    """The limit is the tighter one for the first budget and the looser one for the second."""
    budgets = ["cost=kv", "budget.values=[0.95,0.45]", "budget.limits={flops: 0.6}"]
    assert search(tmp_path / "run", *options, *budgets) == 0
    record = json.loads((tmp_path / "run" / "frontier.json").read_text())
    assert (record["cost"], record["limits"]) == ("kv", {"flops": 0.6})
    assert [config["budget"] for config in record["configs"]] == [0.95, 0.45]
    for config in record["configs"]:
        assert set(config["costs"]) == UNTIMED
        assert config["costs"]["kv"] <= config["budget"] + 0.01, "but for the other samples of the report split"
        assert config["costs"]["flops"] <= 0.61
        assert config["provenance"]["cost"] == "kv"


def test_limits_out_of_reach_are_refused_before_the_search(tmp_path, capsys):
    assert search(tmp_path / "a", *LEARNED, "budget.values=[0.5]", "budget.limits={kv: 0.01}") == 2
    assert "budget 0.01 of kv cannot be reached" in one_line(capsys)
    assert search(tmp_path / "b", *LEARNED, "budget.values=[0.5]", "budget.limits={flops: 0.4}") == 2
    assert "limit another cost, or none" in one_line(capsys)
    assert search(tmp_path / "c", *LEARNED, "budget.values=[0.5]", "budget.limits={time: 0.4}") == 2
    assert "cost 'time' is unknown; choose one of" in one_line(capsys)


def test_profile_prints_ranges_and_refuses_what_is_out_of_them(table, capsys):
    found = LatencyTable.load(table)
    assert (found.key.batch, found.protocol.clock) == (2, "cpu")
    assert set(found.selectors) == {"fastv", "random", "uniform_grid"}
    arguments = ["profile", *TINY, "cost=kv", f"cost.table={table}", "cost.batch=2", "cost.new_tokens=4"]
    assert main([*arguments, "budget.values=[0.5,0.01]"]) == 2
    said = capsys.readouterr()
    assert "0.5, 0.01 (out of reach)" in said.out
    assert {line.split()[1] for line in said.out.splitlines() if "│" in line} == UNTIMED | {"latency", "generation"}
    assert "budget 0.01 of kv cannot be reached" in said.err


@pytest.fixture(scope="module")
def proportional(table):
    """A table of this process in which layers take time in proportion to tokens, and cuts cost next to nothing."""
    path = table.parent / "proportional.json"
    in_proportion(LatencyTable.load(table)).save(path)
    return path


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(import_module("vispco.cli.profile"), "open_model", lambda *_: pytest.fail("too late"))
    for place in (tmp_path, tmp_path / "none" / "latency.json"):
        assert main(["profile", "-o", str(place), *TINY]) == 2
        assert f"{place}: cannot be written" in one_line(capsys)


def test_a_search_under_time_shows_where_flops_and_time_part(proportional, tmp_path):
    timed = ["cost=latency", f"cost.table={proportional}", "cost.batch=2", "cost.new_tokens=4"]
    assert search(tmp_path / "run", *LEARNED, *timed, "budget.values=[0.7]") == 0
    points = vispco.read_points(tmp_path / "run")
    assert all(set(point.costs) == UNTIMED | {"latency", "generation"} for point in points)
    assert {point.basis["latency"] for point in points} == {LatencyTable.load(proportional).digest}
    assert all(0.65 < point.costs["latency"] <= 0.71 for point in verified(tmp_path / "run", "learned"))
    assert (tmp_path / "run" / "costs.png").stat().st_size > 10_000
    assert 'id="costs"' in (tmp_path / "run" / "report.html").read_text()
    best = tmp_path / "best.json"
    assert main(["export", str(tmp_path / "run"), "--budget", "0.7", "--predict", "-o", str(best)]) == 0
    assert set(vispco.PruningConfig.load(best).costs) == {"latency"}


def test_without_a_table_a_search_under_time_measures_one(tmp_path):
    timed = ["cost=generation", "cost.clock=cpu", "cost.new_tokens=2", "budget.limits={kv: 0.5}"]
    assert search(tmp_path / "run", "search=step", "search.ladder=[0.05]", *timed, "budget.values=[1.0]") in (0, 2)
    assert LatencyTable.load(tmp_path / "run" / "latency.json").protocol.clock == "cpu"


def test_a_table_of_other_circumstances_is_refused(table, tmp_path, capsys):
    for option, message in (
        ("cost.batch=3", "batch"),
        ("model=micro_gemma3", "model"),
    ):
        timed = ["cost=latency", f"cost.table={table}", "cost.batch=2", "cost.new_tokens=4", option]
        assert search(tmp_path / message, *LEARNED, *timed, "budget.values=[1.0]") == 2
        assert message in one_line(capsys)
    assert search(tmp_path / "none", *LEARNED, "cost=latency", "cost.table=/nowhere.json", "budget.values=[1.0]") == 2
    assert "/nowhere.json" in one_line(capsys)


def test_frontiers_are_compared_over_a_chosen_cost(table, tmp_path, capsys):
    timed = [f"cost.table={table}", "cost.batch=2", "cost.new_tokens=4"]
    grid = ["search=step", "search.ladder=[0.3]", "budget.values=[1.0]"]
    assert search(tmp_path / "a", *grid, *timed) == 0
    other = tmp_path / "other.json"
    data = json.loads(table.read_text())
    data["decode_outside"] *= 2
    other.write_text(json.dumps(data))
    assert search(tmp_path / "b", *grid, f"cost.table={other}", *timed[1:]) == 0
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    capsys.readouterr()
    plot = tmp_path / "kv.png"
    assert main(["compare", *runs, "--cost", "kv", "-o", str(plot)]) == 0
    assert plot.exists()
    assert main(["compare", *runs, "--cost", "latency"]) == 2
    assert "which do not compare; choose another cost" in one_line(capsys)
    assert main(["compare", runs[0], "--cost", "latency", "--wandb", "none"]) == 0
