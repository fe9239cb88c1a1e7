"""The W&B tracker: what it writes offline, read back; and that nothing W&B does comes through it."""

import io
import json
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import wandb
from offline import read_offline
from PIL import Image

from vispco.cost import REGISTRY
from vispco.frontier import Point
from vispco.runs import Result, RunFolder, WandbTracker, record_comparison
from vispco.runs.wandb_run import COLUMNS, without_passwords

CONFIG = {
    "seed": 5,
    "search": {"name": "learned", "storage": "postgresql://me:hush-hush@host/study"},
    "selector": {"name": "fastv"},
}
PLACE = {"mode": "offline", "project": "p", "group": "experiment"}


def make_point(name, method="learned", flops=0.5, score=0.75, **changes):
    values = dict(
        name=name, method=method, selector="fastv", keep=(1.0, 0.5), split="test", seed=5,
        costs={"flops": flops, "kv": 0.4}, quality={"score": score, "kl": 0.25}, slices={}, samples=4,
        backend="sdpa", dtype="float32", model="m", prompt="p",
    )  # fmt: skip
    return Point(**values | changes)


RESULTS = [
    Result("learned", [make_point("learned b=0.5", budget=0.5)], {"hypervolume": 0.375}),
    Result("grid", [make_point("grid 1", "grid", 0.25), make_point("grid 2", "grid")], {"hypervolume": 0.5}),
]


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", "seed: 5\n")


def track(folder, **place):
    """A whole life of a tracker."""
    tracker = WandbTracker(folder, CONFIG, **PLACE | place)
    tracker.log(7, {"loss": 1.5, "multiplier": 0.0})
    tracker.log(8, {"loss": 1.25, "multiplier": 0.5})
    tracker.finish(RESULTS, {"config.yaml": folder.path / "config.yaml"}, "flops")
    tracker.close(failed=False)


def running():
    """W&B's processes below this one; what they have not written yet cannot be read back."""
    return [child for child in psutil.Process().children() if child.name() == "wandb-core"]


def test_main_and_baseline_are_runs_of_one_group(folder, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(sys, "argv", ["vispco search", "search.storage=postgresql://me:hush-hush@host/study"])
    track(folder)
    assert not running()
    main, grid = read_offline(folder.path)
    assert capsys.readouterr().err == ""
    assert [(each.run.job_type, each.run.run_group, each.run.project) for each in (main, grid)] == [
        ("search", "experiment", "p"),
        ("baseline", "experiment", "p"),
    ]
    assert [each.run.display_name for each in (main, grid)] == ["run learned seed 5", "run grid seed 5"]
    assert [each.exit_code for each in (main, grid)] == [0, 0]
    assert main.config["method"] == "learned"
    assert grid.config["method"] == "grid"
    assert main.config["selector"] == {"name": "fastv"}
    contents = [path.read_bytes() for path in folder.path.rglob("*") if path.is_file()]
    assert not [content for content in contents if b"hush-hush" in content or b"k" * 40 in content]


def test_history_table_summary_and_artifact(folder):
    track(folder)
    main, grid = read_offline(folder.path)
    curves = [entry for entry in main.history if "loss" in entry]
    assert [(entry["step"], entry["loss"], entry["multiplier"]) for entry in curves] == [(7, 1.5, 0.0), (8, 1.25, 0.5)]
    assert {metric.name: metric.step_metric for metric in main.metrics} == {"loss": "step", "multiplier": "step"}
    for each, result in zip((main, grid), RESULTS, strict=True):
        columns, rows = each.table("points")
        assert columns == list(COLUMNS)
        assert [row[0] for row in rows] == [point.name for point in result.points]
        assert each.summary["hypervolume"] == result.summary["hypervolume"]
        assert "_wandb/visualize/frontier" in each.config
    (row,) = main.table("points")[1]
    told = dict(zip(COLUMNS, row, strict=True))
    assert told["keep"] == "[1.0, 0.5]"
    assert (told["budget"], told["seed"], told["score"], told["kl"]) == (0.5, 5, 0.75, 0.25)
    assert [told[name] for name in REGISTRY] == [{"flops": 0.5, "kv": 0.4}.get(name) for name in REGISTRY]
    assert main.files("pareto-config") == {"config.yaml": b"seed: 5\n"}
    assert grid.files("pareto-config") == {}


def test_the_same_folder_goes_on_with_the_same_runs(folder, tmp_path):
    tracker = WandbTracker(folder, CONFIG, **PLACE)
    tracker.close(failed=True)
    track(folder)
    other = RunFolder.create(tmp_path / "other", "")
    track(other)
    first, again, grid = read_offline(folder.path)
    assert [first.exit_code, again.exit_code] == [1, 0]
    assert first.run.run_id == again.run.run_id
    assert first.run.resume  # what `wandb sync` joins the two by
    assert again.run.resume
    assert grid.run.run_id == again.run.run_id.replace("learned", "grid")
    assert {each.run.run_id for each in read_offline(other.path)}.isdisjoint({first.run.run_id, grid.run.run_id})


def test_a_damaged_identity_is_replaced(folder):
    (folder.path / "wandb.json").write_text("{")
    track(folder)
    assert read_offline(folder.path)[0].run.run_id == json.loads((folder.path / "wandb.json").read_text())["id"] + (
        "-learned"
    )


def test_online_without_a_key_is_recorded_offline(folder, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(folder.path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody is there, should it try
    wandb.teardown()  # it has settings of its own from the tests before
    track(folder, mode="online")
    assert len(read_offline(folder.path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "W&B is not reached" in line
    assert "wandb sync" in line


def test_a_comparison_is_one_run(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (2, 1)).save(stream, "PNG")
    picture = stream.getvalue()
    runs = {"a": RESULTS[0].points, "b": RESULTS[1].points}
    series = {"a: learned": RESULTS[0].points, "b: grid": RESULTS[1].points}
    record_comparison(
        tmp_path, runs, series, {"a: learned hypervolume": 0.375}, picture,
        cost="flops", mode="offline", project="p", group="g",
    )  # fmt: skip
    assert not running()
    (run,) = read_offline(tmp_path)
    assert (run.run.job_type, run.run.run_group, run.config["runs"]) == ("compare", "g", ["a", "b"])
    columns, rows = run.table("points")
    assert columns == ["run", *COLUMNS]
    assert [row[:2] for row in rows] == [["a", "learned b=0.5"], ["b", "grid 1"], ["b", "grid 2"]]
    columns, rows = run.table("frontiers_table")
    assert sorted(rows) == sorted([[0.5, "a: learned", 0.75], [0.25, "b: grid", 0.75]]), columns
    assert (run.folder / "files" / run.history_of("overlay", "path")).read_bytes() == picture
    assert run.summary["a: learned hypervolume"] == 0.375


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:pa:s@s@host:5432/x", "postgresql+psycopg://me:***@host:5432/x"),
        ("postgresql://me@host/x", "postgresql://me@host/x"),
        ("redis://:secret@host", "redis://:***@host"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("/home/me/study.log", "/home/me/study.log"),
        (3, 3),
    ],
)
def test_passwords_are_not_shown(text, shown):
    assert without_passwords({"a": [{"b": text}]}) == {"a": [{"b": shown}]}


def make_module(break_call=lambda name, options: None):
    """A W&B that does nothing, and the names of the calls that it gets."""
    made = []

    def call(name, value=None):
        def make(*arguments, **options):
            made.append(name)
            break_call(name, options)
            return value

        return make

    names = ("define_metric", "log", "log_artifact", "finish")
    run = SimpleNamespace(
        summary=SimpleNamespace(update=call("update")), offline=True, **{name: call(name) for name in names}
    )
    artifact = SimpleNamespace(add_file=lambda *arguments, **options: None)
    module = SimpleNamespace(
        setup=call("setup"), Settings=dict, init=call("init", run), Table=call("Table"),
        plot=SimpleNamespace(scatter=call("scatter")), Artifact=call("Artifact", artifact), teardown=call("teardown"), run=None,
    )  # fmt: skip
    return module, made


CALLS = ("setup", "init", "define_metric", "log", "Table", "scatter", "update", "Artifact", "log_artifact", "finish")


@pytest.mark.parametrize(
    "how", [ConnectionResetError("gone"), SystemExit(1), "hangs"], ids=["raises", "exits", "hangs"]
)
@pytest.mark.parametrize("call", CALLS)
def test_nothing_that_wandb_does_comes_through(call, how, folder, monkeypatch, capsys):
    never = threading.Event()

    def break_call(name, options):
        if name == call:
            if how == "hangs":
                never.wait()
                return
            raise how

    module, made = make_module(break_call)
    monkeypatch.setitem(sys.modules, "wandb", module)
    began = time.monotonic()
    track(folder, patience=0.15)
    assert time.monotonic() - began < 5
    assert made.count(call) == 1
    assert made[made.index(call) + 1 :] == ["teardown"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vispco: W&B is given up (")
    never.set()


def test_an_unreachable_server_is_tried_once(folder, monkeypatch, capsys):
    """All runs of the search are offline then; the failed online run is shut down first, for it holds the id."""
    modes = []

    def break_call(name, options):
        if name == "init":
            modes.append(options["mode"])
            if options["mode"] == "online":
                raise OSError("no route")

    module, made = make_module(break_call)
    monkeypatch.setitem(sys.modules, "wandb", module)
    track(folder, mode="online")
    assert modes == ["online", "offline", "offline"]
    assert made[:4] == ["setup", "init", "teardown", "init"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "no route" in line


def test_no_wandb_at_all(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    track(folder)
    assert len(capsys.readouterr().err.splitlines()) == 1
