"""Heat map of scores: selectors in the order of their means, slices side by side."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

RATIO = "0.25"


def draw(results: dict[str, Any], path: Path) -> None:
    scores = results["scores"]
    labels = sorted(scores, key=lambda label: -scores[label][RATIO]["score"][0])
    names = list(results["unpruned"]["slices"])
    rows = [results["unpruned"], *(scores[label][RATIO] for label in labels)]
    figure = Figure(figsize=(11, 0.2 * len(rows) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    values = [[100 * row["slices"][name][0] for name in names] for row in rows]
    left.imshow(values, aspect="auto", vmin=0, vmax=100, cmap="viridis")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            left.text(
                x, y, f"{value:.0f}", ha="center", va="center", fontsize=6, color="white" if value < 60 else "black"
            )
    left.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    left.set_yticks(range(len(rows)), ["unpruned", *labels], fontsize=7)
    left.set_title(f"accuracy by slice, {float(RATIO):.0%} of the visual tokens from layer 2 on", fontsize=9)
    for ratio, color in zip(results["config"]["ratios"], ("tab:blue", "tab:orange", "tab:green"), strict=True):
        found = [scores[label][f"{ratio:g}"]["score"] for label in labels]
        middle = [100 * value for value, _, _ in found]
        spread = [[100 * (v - low) for v, low, _ in found], [100 * (high - v) for v, _, high in found]]
        places = range(1, len(rows))
        right.errorbar(middle, places, xerr=spread, fmt="o", ms=3, lw=1, color=color, label=f"{ratio:.0%}")
    right.axvline(100 * results["unpruned"]["score"][0], color="grey", lw=0.8, ls="--", label="unpruned")
    right.set_title("mean of the slices, 95 % intervals", fontsize=9)
    right.grid(alpha=0.3)
    right.legend(fontsize=7)
    if results["config"]["rehearsal"]:
        figure.suptitle("REHEARSAL: too few samples to mean anything", color="red")
    figure.savefig(path, dpi=80)
