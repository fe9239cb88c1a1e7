"""Runs that differ in nothing but their seed, taken together."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from vispco.errors import RunError
from vispco.runs import read_composed

IGNORED = ("tracker", "progress")
"""Groups of a configuration that have no say in a result."""


def seed_groups(runs: Sequence[str]) -> list[list[str]]:
    """Runs of one configuration under two seeds or more; of several runs under one seed the first.

    A folder without a configuration that can be read belongs to no group.
    """
    groups: dict[str, dict[int, str]] = {}
    for run in runs:
        try:
            config = read_composed(Path(run) / "config.yaml")
            seed = int(config.pop("seed"))
            rest = {str(name): value for name, value in config.items() if name not in IGNORED}
            same = json.dumps(rest, sort_keys=True)
        except (RunError, KeyError, TypeError, ValueError, RecursionError):
            continue
        groups.setdefault(same, {}).setdefault(seed, run)
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
