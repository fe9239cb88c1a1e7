"""What a run was made with: releases, machine, code, command line. It stands beside the results, in one JSON file.

A run that was interrupted has several starts, maybe on several machines, and the file has an entry for each. Nothing
here fails: what cannot be found out is null. Of the process's environment only :data:`VARIABLES` are recorded, and
passwords in URLs are masked.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

import vispco
from vispco import parallel
from vispco.runs.folder import RunFolder
from vispco.runs.wandb_run import without_passwords

FILE = "environment.json"
SCHEMA_VERSION = "1.0"

VARIABLES = (
    "PYTHONHASHSEED", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_CUDA_ALLOC_CONF", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip
"""Environment variables that can have a say in results; none of them holds a secret."""

NO_SAY = ("started", "command", "processes", "git.here", "variables.PYTHONHASHSEED")
"""Entries that results do not depend on, or their beginnings."""

PATIENCE = 10.0
"""Seconds that a program may take that is asked for something."""


def environment() -> dict[str, Any]:
    """What this process runs on and with, as plain JSON."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": without_passwords(sys.argv),
        "vispco": vispco.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": {"model": _cpu(), "capability": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "processes": parallel.size(),
        "gpu": _gpu(),
        "arithmetic": {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        },
        "git": _checkouts(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "packages": dict(sorted({each.name.lower(): each.version for each in distributions()}.items())),
    }


def record_environment(folder: RunFolder) -> dict[str, Any]:
    """Add this start of the run to the file in its folder.

    Returns
    -------
    dict
        The entry but for its packages, as a tracker may show it.

    Raises
    ------
    RunError
        If the folder cannot be written.
    """
    entry = environment()
    folder.write_json(FILE, {"schema_version": SCHEMA_VERSION, "starts": [*read_environments(folder.path), entry]})
    return {name: value for name, value in entry.items() if name != "packages"}


def read_environments(path: Path) -> list[dict[str, Any]]:
    """The entry of every start of the run in the folder ``path``; none if there is no such file, or it is damaged."""
    try:
        starts = json.loads((path / FILE).read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [entry for entry in starts if isinstance(entry, dict)] if isinstance(starts, list) else []


def environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What results may depend on and differs, by dotted name: its value then and its value now."""
    before, after = _leaves(then), _leaves(now)
    return {
        name: (before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and not name.startswith(NO_SAY)
    }


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """What is in nested mappings, by dotted name; an empty mapping and null are nothing."""
    if not isinstance(value, Mapping):
        return {} if value is None else {name: value}
    return {
        deeper: leaf
        for key, inner in value.items()
        for deeper, leaf in _leaves(inner, f"{name}.{key}" if name else str(key)).items()
    }


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor()) or None


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"names": [], "driver": None, "cuda": None, "cudnn": None}
    drivers = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "names": [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())],
        "driver": drivers.splitlines()[0] if drivers else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _checkouts() -> dict[str, Any]:
    """Commit and dirty flag of vispco's own repository, and of the one that the process is in if that is another."""
    package = Path(vispco.__file__)
    # An installed package may lie inside of somebody's repository, which does not track it.
    tracked = _said("git", "-C", str(package.parent), "ls-files", "--error-unmatch", package.name) is not None
    own = _top(package.parent) if tracked else None
    here = _top(Path.cwd())
    return {"vispco": _state(own), "here": None if here == own else _state(here)}


def _top(place: Path) -> str | None:
    return _said("git", "-C", str(place), "rev-parse", "--show-toplevel")


def _state(top: str | None) -> dict[str, Any] | None:
    commit = None if top is None else _said("git", "-C", top, "rev-parse", "HEAD")
    if top is None or commit is None:
        return None
    changes = _said("git", "--no-optional-locks", "-C", top, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _said(*words: str) -> str | None:
    """What a program says; None if it is not there, fails or takes too long."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
