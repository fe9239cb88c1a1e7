"""A search in two processes of ``torchrun`` gives what one process gives, to the last bit."""

import json
import os
import subprocess
import sys

import pytest
import torch
from processes import together
from safetensors.torch import load_file

from vispco.cli import main, search

TINY = [
    "data.search_samples=24",
    "data.report_samples=24",
    "data.batch_size=5",
    "search.steps=4",
    "search.batch=2",
    "search.anchors=4",
    "search.samples=20",
    "search.start_levels=5",
    "search.probe_samples=8",
    "search.select_samples=16",
    "search.polish_rounds=1",
    "search.polish_samples=12",
    "budget.values=[0.4,0.6,0.9]",
    "tracker=none",
]


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path):
    """Points of both splits hold schedules, KL and scores; both start without kept answers."""
    one, two = tmp_path / "one" / "a", tmp_path / "two" / "a"
    assert main(["search", *TINY, "data.cache_gib=0", "progress=false", f"hydra.run.dir={one}"]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vispco"]
    done = subprocess.run(
        [*command, "search", *TINY, "data.cache_gib=0", f"hydra.run.dir={two}"],
        capture_output=True, text=True, timeout=250, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (two / "points.jsonl").read_bytes() == (one / "points.jsonl").read_bytes()
    records = [json.loads((folder / "frontier.json").read_text()) for folder in (one, two)]
    assert records[0] == records[1]
    assert records[0]["indicators"]["learned forwards"] > 50
    ours, theirs = (load_file(folder / "predictor.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert [path.name for path in two.parent.iterdir()] == ["a"]
    assert done.stdout.count("unpruned accuracy") == done.stdout.count("run folder: ") == 1, "only one of them speaks"
    assert done.stderr.count("learning") == 1, "and shows its progress"


REFUSED = {
    "search=tpe": "trials of search=tpe are not shared out by torchrun",
    "cost=latency": "times are not measured while several processes run",
    "budget.values=[0.01]": "budget 0.01 of flops cannot be reached",
    "selector=fastw": "In 'search': Could not find 'selector/fastw'",
}


BEFORE = (".lock", "config.yaml", "environment.json")
"""Files of a run that has not begun."""


@pytest.mark.parametrize("option", REFUSED)
def test_a_refusal_is_said_once(option, tmp_path, capfd):
    sizes = [each for each in TINY if not each.startswith("search.")]

    def work(rank):
        return main(["search", *sizes, option, "progress=false", f"hydra.run.dir={tmp_path / 'a'}"])

    assert together(work, join=False) == [2, 2]
    captured = capfd.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith(f"vispco: {REFUSED[option]}")
    assert captured.out == ""
    assert not [path for path in tmp_path.glob("**/*") if path.is_file() and path.name not in BEFORE]


def test_a_refusal_of_the_main_process_ends_the_others(tmp_path, capfd):
    """Only the main one has a folder that can be occupied."""
    (tmp_path / "points.jsonl").touch()
    assert together(lambda rank: main(["search", *TINY, f"hydra.run.dir={tmp_path}"]), join=False) == [2, 1]
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "holds a run already" in line


def test_other_verbs_and_sweeps_are_for_one_process(tmp_path, capfd):
    assert together(lambda rank: main(["models"]), join=False) == [2, 2]
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "`vispco models` works in one process" in line
    sweep = ["search", "--multirun", *TINY, "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    assert together(lambda rank: main(sweep), join=False) == [2, 2]
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "--multirun" in line
    assert not list(tmp_path.glob("*/points.jsonl"))


def test_processes_with_other_overrides_are_refused(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(search.__globals__["SearchJob"], "run", lambda self: pytest.fail("it was started"))
    work = together(lambda rank: main(["search", *TINY, f"seed={rank}", f"hydra.run.dir={tmp_path}"]), join=False)
    assert work == [2, 2]
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "the processes differ in the configuration" in line
