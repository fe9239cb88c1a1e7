"""The tables of README.md, from results.json."""

from typing import Any

from experiments.selectors import page

COLUMNS = {
    "violated": ("over budget, %", 100, 1),
    "violation": ("violation", 100, 2),
    "slack": ("slack", 100, 2),
    "distance": ("both", 100, 2),
    "loss": ("loss", 1, 3),
    "cost swing": ("cost swing", 100, 1),
    "multiplier swing": ("multiplier swing", 1, 1),
    "multiplier": ("multiplier", 1, 1),
    "rho": ("penalty", 1, 0),
}
"""Heading, factor and digits."""


def tables(results: dict[str, Any]) -> dict[str, str]:
    config = results["config"]
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    blocks = {"config": f"{config['seeds']} seeds x {len(config['budgets'])} budgets; {versions}."}
    for scenario, arms in results["scenarios"].items():
        header = ["arm", *(heading for heading, _, _ in COLUMNS.values())]
        rows = [[arm, *(cell(found[name], *how[1:]) for name, how in COLUMNS.items())] for arm, found in arms.items()]
        blocks[scenario] = page.table(header, rows)
    return blocks


def cell(interval: list[float], factor: float, digits: int) -> str:
    # Adding 0 makes a zero of -0.
    value, low, high = (f"{round(factor * number, digits) + 0.0:.{digits}f}" for number in interval)
    return value if low == high else f"{value} [{low}, {high}]"
