"""A disk that is full, or may not be written: one line, exit code 2; the same command ends as if nothing had been."""

import errno
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from refusing import one_line
from small import full, mounted, remount

from vispco.cli import main
from vispco.engine import load_checkpoint
from vispco.search import LearnedSearch

TINY = [
    "data.search_samples=6",
    "data.report_samples=6",
    "data.cache_gib=0.0",
    "search.steps=2",
    "search.samples=6",
    "search.batch=2",
    "search.anchors=2",
    "search.start_levels=3",
    "search.probe_samples=2",
    "search.select_samples=2",
    "budget.values=[0.6]",
    "tracker=none",
    "progress=false",
]
TRIALS = [*TINY[:3], "search=tpe", "search.trials=3", "search.samples=4", "budget.values=[0.9]", *TINY[-2:]]
SPACE = "No space left on device"


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(autouse=True)
def opened(micro, monkeypatch, capsys):
    """The model that every verb opens."""
    for verb in ("bench", "eval", "job", "profile"):
        monkeypatch.setattr(import_module(f"vispco.cli.{verb}"), "open_model", lambda settings: micro)
    capsys.readouterr()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, micro):
    """A run on a disk with room."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("vispco.cli.job"), "open_model", lambda settings: micro)
        assert main(["search", *TINY, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def best(finished):
    return finished / "config-0.6.json"


def left(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_every_file_of_a_search(finished, tmp_path, capsys, monkeypatch):
    """The disk is full at one file after the other, each time in the same folder."""
    run = tmp_path / "run"
    words = ["search", *TINY, f"hydra.run.dir={run}"]
    files = sorted({path.name for path in finished.iterdir() if path.is_file()} - {".lock"})
    assert {"points.jsonl", "predictor.safetensors", "report.html", "schedules.png"} <= set(files)
    for name in ["config.yaml", "state.json", "work", "snapshots", *files]:
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} if run.exists() else {}
        with full(monkeypatch, lambda path, name=name: name in path.name or path.parent.name == name) as refused:
            assert main(words) == 2, name
        assert refused, name
        *_, line = lines = capsys.readouterr().err.splitlines()
        assert [each for each in lines if "goes on with what was found before" not in each] == [line], name
        assert line.startswith("vispco: ")
        assert SPACE in line, name
        assert not left(run), name
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} if run.exists() else {}
        assert after.get(run / name) in (None, b"", before.get(run / name)), name
        assert set(before) - set(after) <= {run / "points.jsonl"}, f"{name}: something that was finished is gone"
        assert run / "frontier.json" not in after, name
    assert main(words) == 0
    for name in ("points.jsonl", "frontier.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name


def test_the_journal_of_a_study(tmp_path, capsys, monkeypatch):
    """Its records are whole or not there, and trials that were told stay."""
    run = tmp_path / "run"
    words = ["search", *TRIALS, "search.storage=journal", f"hydra.run.dir={run}"]
    journal, sizes = run / "study.log", []

    def ends(path):
        if path != journal:
            return False
        sizes.append(path.stat().st_size)
        return len(sizes) > 25

    with full(monkeypatch, ends):
        assert main(words) == 2
    line = one_line(capsys)
    assert SPACE in line
    assert "storage 'journal' failed" in line
    assert line.endswith("finished trials are in it, mend it and run the same command again")
    records = [json.loads(text) for text in journal.read_text().splitlines()]
    assert journal.read_bytes().endswith(b"\n")
    assert len(records) == 25
    assert main(words) == 0


def test_a_search_on_a_disk_that_is_really_full(finished, tmp_path, capsys):
    with mounted(tmp_path / "disk", "48k") as disk:
        words = ["search", *TINY, f"hydra.run.dir={disk / 'run'}"]
        assert main(words) == 2
        line = one_line(capsys)
        assert SPACE in line
        assert str(disk / "run") in line
        assert not left(disk)
        remount(disk, "size=64m")
        assert main(words) == 0
        assert (disk / "run" / "points.jsonl").read_bytes() == (finished / "points.jsonl").read_bytes()


def test_a_folder_that_is_read_only(tmp_path, capsys):
    with mounted(tmp_path / "disk", "1m") as disk:
        remount(disk, "ro")
        assert main(["search", *TINY, f"hydra.run.dir={disk / 'run'}"]) == 2
        assert "Read-only file system" in one_line(capsys)


def outputs(place, finished, best):
    """Words of every verb that writes a file where it is told to."""
    some = ["data.report_samples=4", "data.max_new_tokens=1"]
    return {
        "export": ["export", str(finished), "--budget", "0.6", "-o", str(place / "best.json")],
        "eval": ["eval", str(best), *some, "-o", str(place / "scores.json")],
        "answers": ["eval", str(best), *some, "--answers", str(place / "answers.jsonl")],
        "bench": [
            "bench", str(best), "--pairs", "1", "--new-tokens", "1", "-o", str(place / "bench.json"), *some[:1],
        ],
        "plot": ["compare", str(finished), "--wandb", "none", "-o", str(place / "plot.png")],
        "report": ["compare", str(finished), "--wandb", "none", "-o", str(place / "report.html")],
    }  # fmt: skip


@pytest.mark.parametrize("verb", outputs(Path(), "", ""))
def test_every_other_file(finished, best, tmp_path, capsys, monkeypatch, verb):
    words = outputs(tmp_path, finished, best)[verb]
    with full(monkeypatch, lambda path: path.parent == tmp_path) as refused:
        assert main(words) == 2
    assert len(refused) == 1
    line = one_line(capsys)
    assert f"cannot be written ({SPACE})" in line
    assert not list(tmp_path.iterdir())


def test_measured_times(tmp_path, capsys, monkeypatch):
    module = import_module("vispco.cli.profile")
    real = module.calibrate_for
    monkeypatch.setattr(
        module, "calibrate_for", lambda *given, **options: real(*given, **options, repeats=1, drift=float("inf"))
    )
    words = ["profile", *TINY[:3], "cost.new_tokens=1", "-o", str(tmp_path / "latency.json")]
    with full(monkeypatch, lambda path: path.parent == tmp_path):
        assert main(words) == 2
    assert f"latency.json: cannot be written ({SPACE})" in one_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["a file", "below a file", "gone"])
@pytest.mark.parametrize("verb", ["export", "eval", "bench", "plot", "report"])
def test_places_that_are_none(finished, best, tmp_path, capsys, verb, place):
    (tmp_path / "file").write_text("mine")
    where = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x", "gone": tmp_path / "gone"}[place]
    assert main(outputs(where, finished, best)[verb]) == 2
    assert "cannot be written (" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_in_place_of_the_run_folder(tmp_path, capsys, place):
    (tmp_path / "file").write_text("mine")
    assert main(["search", *TINY, f"hydra.run.dir={tmp_path / place}"]) == 2
    assert "the run folder cannot be made" in one_line(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_folder_that_is_removed_while_it_is_used(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    train = LearnedSearch.train

    def removed(search, *given):
        shutil.rmtree(run)
        return train(search, *given)

    words = ["search", *TINY, f"hydra.run.dir={run}"]
    with monkeypatch.context() as patch:
        patch.setattr(LearnedSearch, "train", removed)
        assert main(words) == 2
    assert one_line(capsys) == f"vispco: {run}: was removed while the run was in it; run the same command again"
    assert not {"points.jsonl", "frontier.json"} & set(os.listdir(run))
    assert main(words) == 0


def test_a_journal_that_is_removed_while_it_is_used(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    module = import_module("vispco.cli.finding")
    real = module.SampledSearch.run

    def removed(search, measure):
        shutil.rmtree(run)
        return real(search, measure)

    monkeypatch.setattr(module.SampledSearch, "run", removed)
    assert main(["search", *TRIALS, "search.storage=journal", f"hydra.run.dir={run}"]) == 2
    assert "storage 'journal' failed (No such file or directory)" in one_line(capsys)


CACHED = [word if "cache_gib" not in word else "data.cache_gib=0.1" for word in TINY]


@pytest.mark.parametrize("trouble", ["full", "a file", "damaged"])
def test_a_cache_that_is_of_no_use(finished, tmp_path, capsys, monkeypatch, trouble):
    """Unpruned answers are computed, which is said where they cannot be kept, and the result is the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    teacher = tmp_path / "cache" / "vispco" / "teacher"
    teacher.parent.mkdir(parents=True)
    if trouble == "a file":
        teacher.write_text("mine")
    if trouble == "damaged":
        assert main(["search", *CACHED, f"hydra.run.dir={tmp_path / 'first'}"]) == 0
        whole = {path: path.read_bytes() for path in teacher.iterdir()}
        for path, content in whole.items():
            path.write_bytes(content[:-8] + b"\0" * 8)
    run = tmp_path / "run"
    with full(monkeypatch, lambda path: path.parent == teacher and trouble == "full"):
        assert main(["search", *CACHED, f"hydra.run.dir={run}"]) == 0
    lines = capsys.readouterr().err.splitlines()
    reason = {"full": SPACE, "a file": "File exists", "damaged": ""}[trouble]
    assert lines == ([f"unpruned answers are not kept: {teacher} cannot be written ({reason})"] if reason else [])
    assert (run / "points.jsonl").read_bytes() == (finished / "points.jsonl").read_bytes()
    if trouble == "full":
        assert not list(teacher.iterdir())
    if trouble == "damaged":
        assert {path: path.read_bytes()[-8:] for path in teacher.iterdir()} == {
            path: content[-8:] for path, content in whole.items()
        }


def test_a_place_where_wandb_cannot_write(finished, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "wandb").write_text("mine")
    assert main(["search", *TINY, "tracker=wandb", f"hydra.run.dir={run}"]) == 0
    line = one_line(capsys)
    assert line.startswith("vispco: W&B is given up (FileExistsError")
    assert (run / "points.jsonl").read_bytes() == (finished / "points.jsonl").read_bytes()
    assert (run / "frontier.json").exists()


def nowhere():
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")


@pytest.mark.parametrize("trouble", ["no place", "no room for the picture"])
def test_a_comparison_that_wandb_cannot_have(finished, tmp_path, capsys, monkeypatch, trouble):
    monkeypatch.chdir(tmp_path)
    if trouble == "no place":
        (tmp_path / "wandb").write_text("mine")
    else:
        monkeypatch.setattr("vispco.runs.comparison.TemporaryDirectory", nowhere)
    assert main(["compare", str(finished)]) == 0
    out, err = capsys.readouterr()
    assert "hypervolume" in out
    (line,) = err.splitlines()
    assert line.startswith("vispco: W&B is given up (File")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_nobody_takes_does_not_go_unnoticed(finished, tmp_path):
    """A line that waits in a buffer until Python ends."""
    words = ["export", str(finished), "--budget", "0.6", "-o", str(tmp_path / "best.json")]
    program = [sys.executable, "-c", "import sys; from vispco.cli import main; sys.exit(main())", *words]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as nowhere:
        done = subprocess.run(
            program, stdout=nowhere, stderr=subprocess.PIPE, text=True, timeout=200, check=False, env=buffered
        )
    assert (done.returncode, done.stderr) == (2, f"vispco: {SPACE}; make room, then run the same command again\n")
    assert (tmp_path / "best.json").exists()
