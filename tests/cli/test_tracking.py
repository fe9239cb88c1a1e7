"""A search whose W&B process dies under it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from offline import read_offline

from vispco.cli import main

TINY = [
    "data.search_samples=8",
    "data.report_samples=8",
    "search.steps=3",
    "search.batch=2",
    "search.anchors=3",
    "search.samples=8",
    "search.start_levels=3",
    "search.probe_samples=4",
    "search.select_samples=8",
    "budget.values=[0.4,0.9]",
    "progress=false",
]
KEY = "k" * 40
PROGRAM = [sys.executable, "-c", "import sys; from vispco.cli import main; sys.exit(main())", "search", *TINY]


def core_of(process):
    """W&B's process below one of ours, once its run has begun."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children():
            if child.name() == "wandb-core":
                return child
        time.sleep(0.05)
    pytest.fail(f"no W&B process: {process.communicate()}")


def test_killing_wandb_changes_nothing(tmp_path):
    killed, plain = tmp_path / "killed", tmp_path / "plain"
    with subprocess.Popen(
        [*PROGRAM, "tracker=wandb", f"hydra.run.dir={killed}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "WANDB_API_KEY": KEY},
    ) as process:  # fmt: skip
        core = core_of(process)
        while not list(killed.glob("wandb/offline-run-*/run-*.wandb")):
            time.sleep(0.02)
        os.kill(core.pid, signal.SIGKILL)
        assert process.poll() is None
        assert not (killed / "points.jsonl").exists()
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert [line for line in err.splitlines() if line.startswith("vispco:")] == err.splitlines()
    assert len(err.splitlines()) == 1
    assert "W&B is given up" in err
    assert "Traceback" not in out
    assert "hypervolume" in out
    assert not [run for run in read_offline(killed) if run.exit_code is not None]
    assert KEY not in out + err
    assert not [path for path in killed.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert main(["search", *TINY, "tracker=none", f"hydra.run.dir={plain}"]) == 0
    assert (killed / "points.jsonl").read_bytes() == (plain / "points.jsonl").read_bytes()
    for name in ("config-0.4.json", "report.html", "frontier.png"):
        assert (killed / name).exists()
