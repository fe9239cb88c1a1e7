"""Violation against slack at the end, and one problem's cost over a run."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

TITLES = {"short": "15 steps at fixed budgets", "falling": "150 steps, budgets fall from 1"}
TRACED = ("30, damping 1", "30, damping 0.5", "300, damping 0.5", "300, damping 0.2", "300, plain")
MARKS = "osD^v<>Phx*pX+"


def draw(results: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(13, 7), layout="constrained")
    for (scenario, arms), (left, right) in zip(results["scenarios"].items(), figure.subplots(2, 2), strict=True):
        for place, (arm, numbers) in enumerate(arms.items()):
            (x, *xs), (y, *ys) = ([100 * value for value in numbers[name]] for name in ("slack", "violation"))
            left.errorbar(
                x, y, [[y - ys[0]], [ys[1] - y]], [[x - xs[0]], [xs[1] - x]],
                fmt=MARKS[place], ms=6, lw=0.8, label=arm,
            )  # fmt: skip
        left.set(xlabel="slack left, % of full cost", ylabel="violation, % of full cost", title=TITLES[scenario])
        left.legend(fontsize=7, ncols=2)
        for arm in TRACED:
            right.plot(results["traces"][scenario][arm], lw=1, label=arm)
        right.axhline(0.5, color="grey", lw=0.8)
        right.set(xlabel="gradient step", ylabel="exact cost", title="seed 0, budget 0.5")
        right.legend(fontsize=7)
    figure.savefig(path, dpi=80)
