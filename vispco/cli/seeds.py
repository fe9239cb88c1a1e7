"""Runs that differ in nothing but their seed, taken together."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

IGNORED = ("tracker", "progress")
"""Groups of a configuration that have no say in a result."""


def seed_groups(runs: Sequence[str]) -> list[list[str]]:
    """Runs of one configuration under two seeds or more; of several runs under one seed the first.

    A folder without a configuration that can be read belongs to no group.
    """
    groups: dict[str, dict[int, str]] = {}
    for run in runs:
        try:
            config: Any = OmegaConf.to_container(OmegaConf.load(Path(run) / "config.yaml"))
            seed = config.pop("seed")
        except Exception:  # a missing file, or damage of any kind
            continue
        rest = {name: value for name, value in config.items() if name not in IGNORED}
        groups.setdefault(json.dumps(rest, sort_keys=True), {}).setdefault(seed, run)
    return [list(seeds.values()) for seeds in groups.values() if len(seeds) > 1]


def over_seeds(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and sample standard deviation (over n - 1) of every indicator.

    Parameters
    ----------
    rows : sequence of dict of str to float
        Indicators under each seed, at least two; all have the same ones.
    """
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: (statistics.fmean(values), statistics.stdev(values)) for name, values in columns.items()}
