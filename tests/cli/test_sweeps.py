"""Sweeps: jobs in processes of their own, one of which is killed, and what starting the same command again does."""

import multiprocessing
import os
import pickle
import signal
import sys
import time

import pytest

import vispco
from vispco.cli import main
from vispco.errors import ConfigError

SMALL = [
    "search=step",
    "search.ladder=[0.5]",
    "data.search_samples=8",
    "data.report_samples=8",
    "budget.values=[0.9]",
    "progress=false",
    "tracker=none",
]
forked = multiprocessing.get_context("fork")  # of the program itself; its jobs import everything anew


def files(folder):
    """What the files of a finished run are; the lock is only looked at."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def start(arguments):
    process = forked.Process(target=lambda: sys.exit(main(arguments)))
    process.start()
    return process


@pytest.mark.slow
def test_one_of_four_jobs_is_killed_and_done_when_the_sweep_is_started_again(tmp_path, capfd):
    command = ["search", "--multirun", "hydra/launcher=local", *SMALL, f"hydra.sweep.dir={tmp_path}"]
    command += ["selector=fastv,random", "seed=0,1"]
    folders = [tmp_path / str(number) for number in range(4)]
    sweep, lock = start(command), folders[0] / ".lock"  # the first that is waited for
    while not (lock.exists() and lock.read_text().strip()):
        assert sweep.is_alive(), "it ended before a job could be killed"
        time.sleep(0.02)
    os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)
    sweep.join()
    assert sweep.exitcode == 1
    line = capfd.readouterr().err.strip()
    assert "\n" not in line
    (log,) = [word.rstrip(";") for word in line.split() if word.rstrip(";").endswith(".err")]
    assert f"ended without a result, in {folders[0]}; its log is {log};" in line
    assert os.path.exists(log)
    assert "run the same command again" in line
    finished = [(folder / "frontier.json").exists() for folder in folders]
    assert finished == [False, True, True, True], "the others have come to their end before the program has"

    before = {folder: files(folder) for folder in folders}
    again = start(command)
    again.join()
    assert again.exitcode == 0
    assert capfd.readouterr().err == ""
    assert [files(folder) == before[folder] for folder in folders] == [False, True, True, True]
    methods = [{(point.selector, point.seed) for point in vispco.read_points(folder) if point.method == "step"}
               for folder in folders]  # fmt: skip
    assert methods == [{("fastv", 0)}, {("fastv", 1)}, {("random", 0)}, {("random", 1)}]
    names = [(point.name, point.split) for point in vispco.read_points(folders[0])]
    assert len(names) == len(set(names))


def test_a_job_that_is_refused_lets_the_others_have_their_turn(tmp_path, capsys):
    command = ["search", "--multirun", *SMALL, "data.report_split=test,validation,tset", f"hydra.sweep.dir={tmp_path}"]
    assert main(command) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("vispco: job 1: data.search_split and data.report_split are both 'validation'")
    assert (tmp_path / "0" / "frontier.json").exists()
    assert f"run folder of this job: {tmp_path / '2'}" in captured.out

    before = files(tmp_path / "0")
    assert main([word.replace("test,validation,tset", "test") for word in command]) == 0
    assert f"{tmp_path / '0'}: finished already" in capsys.readouterr().out
    assert files(tmp_path / "0") == before


def test_a_single_run_is_taken_up_in_its_folder(tmp_path, capsys, monkeypatch):
    """It is cut short after its points were written, and before its result was."""
    command = ["search", *SMALL, f"hydra.run.dir={tmp_path}"]

    write = vispco.runs.RunFolder.write_json

    def full(folder, name, value):
        if name == "frontier.json":
            raise KeyboardInterrupt
        write(folder, name, value)

    with monkeypatch.context() as patch:
        patch.setattr("vispco.runs.folder.RunFolder.write_json", full)
        assert main(command) == 2
    assert (tmp_path / "points.jsonl").exists()
    assert main(command) == 0
    names = [(point.name, point.split) for point in vispco.read_points(tmp_path)]
    assert len(names) == len(set(names)) > 8
    before = files(tmp_path)
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out == f"{tmp_path}: finished already\n"
    assert main([*command, "seed=3"]) == 2
    assert "holds a run already, with seed = 0 and not 3" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_jobs_and_refusals_go_to_other_processes():
    job = sys.modules["vispco.cli.search"].job
    assert pickle.loads(pickle.dumps(job)) is job
    assert str(pickle.loads(pickle.dumps(ConfigError("job 1: no")))) == "job 1: no"
