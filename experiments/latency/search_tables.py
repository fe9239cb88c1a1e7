"""Tables of the searches under time and under FLOPs, from the results of all seeds.

python -m experiments.latency.search_tables
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.search_cost.measuring import area
from experiments.search_cost.tables import interval

HERE = Path(__file__).parent
ALLOWED = 1.05
"""Measured time over its budget that a schedule may take at most."""


def volume(result: dict[str, Any], search: str, clock: str = "cpu") -> float:
    """Hypervolume over measured times that both searches reach, the unpruned model included.

    A schedule that takes less than the fastest one of the other search counts as if it took as long.
    """
    times = {
        name: [(row["measured"][clock][0], row["score"]) for row in rows] for name, rows in result["searches"].items()
    }
    start = max(min(time for time, _ in pairs) for pairs in times.values())
    pairs = [(max(time, start), score) for time, score in times[search] if time < 1.0]
    return area([*pairs, (1.0, result["unpruned score"])])


def over_budget(result: dict[str, Any], clock: str = "cpu") -> list[float]:
    """Measured time over its budget, for every budget of time."""
    return [row["measured"][clock][0] / row["budget"] for row in result["searches"]["latency"]]


def errors(result: dict[str, Any], clock: str = "cpu") -> list[float]:
    """Measured time over the predicted one, less 1, of the schedules of both searches."""
    rows = [row for rows in result["searches"].values() for row in rows]
    return [row["measured"][clock][0] / row["costs"]["latency"] - 1 for row in rows]


def table(results: Sequence[dict[str, Any]]) -> str:
    """A row per seed, and the mean over seeds with its interval."""
    lines = [
        "| seed | time delivered over budget, median | worst | within 1.05 | error of the prediction, median | "
        "hypervolume, budget of time | of FLOPs | difference, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    differences = []
    for one in results:
        ratios, off = over_budget(one), np.abs(errors(one))
        volumes = [volume(one, search) for search in ("latency", "flops")]
        differences.append(100 * (volumes[0] / volumes[1] - 1))
        lines.append(
            f"| {one['seed']} | {np.median(ratios):.3f} | {max(ratios):.3f} | "
            f"{sum(ratio <= ALLOWED for ratio in ratios)} of {len(ratios)} | {np.median(off):.3f} | "
            f"{volumes[0]:.4f} | {volumes[1]:.4f} | {differences[-1]:+.2f} |"
        )
    if len(results) > 1:
        mean, low, high = interval(differences)
        lines.append(f"| all | | | | | | | {mean:+.2f} [{low:+.2f}, {high:+.2f}] |")
    return "\n".join(lines)


def budgets(results: Sequence[dict[str, Any]]) -> str:
    """A row per budget of time: what was delivered, over all seeds."""
    lines = [
        "| budget of time | predicted | measured, mean over seeds | worst seed | interval of a seed | FLOPs | score |",
        "|---|---|---|---|---|---|---|",
    ]
    for place, row in enumerate(results[0]["searches"]["latency"]):
        rows = [one["searches"]["latency"][place] for one in results]
        times = [other["measured"]["cpu"] for other in rows]
        lines.append(
            f"| {row['budget']:g} | {np.mean([other['costs']['latency'] for other in rows]):.3f} | "
            f"{np.mean([time[0] for time in times]):.3f} | {max(time[0] for time in times):.3f} | "
            f"{np.median([time[2] - time[1] for time in times]):.3f} wide | "
            f"{np.mean([other['costs']['flops'] for other in rows]):.3f} | "
            f"{np.mean([other['score'] for other in rows]):.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    found = [json.loads(path.read_text()) for path in sorted(HERE.glob("results/search_seed*.json"))]
    print(table(found), budgets(found), sep="\n\n")
