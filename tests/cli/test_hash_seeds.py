"""The same seed gives the same files in another process, however Python orders its sets there."""

import os
import subprocess
import sys
from importlib import import_module

import pytest

from vispco.cli import main
from vispco.runs import read_environments

SEARCH = [
    "search", "data.search_samples=8", "data.report_samples=8", "data.batch_size=8", "data.cache_gib=0", "tracker=none",
    "progress=false", "budget.values=[0.5,0.9]", "search.samples=8", "search.steps=1", "search.batch=2",
    "search.anchors=1", "search.probe_samples=2", "search.start_levels=2", "search.select_samples=4", "seed=3",
    "baseline.methods=[{name: grid, ladder: [1.0, 0.1]}, {name: tpe, trials: 6, samples: 6, selectors: [fastv, mob], "
    "tune: [share, k]}]",
]  # fmt: skip
"""A learned search, its predictor, a grid, and an Optuna study over selectors and their knobs."""

FIGURES = ("write_report", "plot_frontiers", "plot_schedules", "plot_costs")
PROGRAM = f"""
import sys
from importlib import import_module
from vispco.cli import main
for name in {FIGURES}:
    setattr(import_module("vispco.cli.search"), name, lambda *_, **__: None)
sys.exit(main())
"""


def results(run):
    """Every file of a run that holds results, by name."""
    ours = (path for path in run.iterdir() if path.suffix in (".json", ".jsonl", ".safetensors"))
    return {path.name: path.read_bytes() for path in ours if path.name != "environment.json"}


@pytest.mark.slow
def test_same_seed_same_result_under_any_hash_seed(tmp_path, monkeypatch):
    """Two processes with hash seeds of their own, and this one with whatever it has."""
    folders = {seed: tmp_path / seed / "run" for seed in ("0", "1", "own")}
    started = {
        seed: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *SEARCH, f"hydra.run.dir={folders[seed]}"],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for seed in ("0", "1")
    }  # fmt: skip
    for name in FIGURES:
        monkeypatch.setattr(import_module("vispco.cli.search"), name, lambda *_, **__: None)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    assert main([*SEARCH, f"hydra.run.dir={folders['own']}"]) == 0
    for process in started.values():
        _, said = process.communicate(timeout=250)
        assert process.returncode == 0, said

    seeds = [read_environments(folder)[0]["variables"]["PYTHONHASHSEED"] for folder in folders.values()]
    assert seeds == ["0", "1", None]
    first, *others = (results(folder) for folder in folders.values())
    wanted = {"points.jsonl", "frontier.json", "config-0.5.json", "config-0.9.json", "predictor.safetensors"}
    assert first.keys() == wanted
    for other in others:
        assert other.keys() == wanted
        assert [name for name in wanted if other[name] != first[name]] == []
