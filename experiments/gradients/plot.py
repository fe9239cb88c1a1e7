"""Rank correlation, signs and scale against the width of the relaxation."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

TITLES = {"rank": "rank correlation", "signs": "sign agreement", "scale": "|estimate| / |difference|, median"}
COLORS = {"soft forward": "tab:blue", "hard forward": "tab:red", "leave one in or out": "tab:green"}


def draw(found: dict[str, dict[str | None, dict[str, list[float]]]], path: Path) -> None:
    """Draw one row per group of directions; the dotted line is what one half of the samples says of the other."""
    figure = Figure(figsize=(12, 3.2 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(TITLES), squeeze=False)
    for row, (group, by_name) in zip(axes, found.items(), strict=True):
        for axis, (key, title) in zip(row, TITLES.items(), strict=True):
            _curves(axis, {name: values[key] for name, values in by_name.items() if name})
            if key != "scale" and by_name.get(None):
                axis.axhline(by_name[None][key][0], color="grey", ls=":", lw=1)
            axis.set(xscale="log", title=f"{title}, {group}", xlabel="temperature, or sigma / 100")
            if key == "scale":
                axis.set_yscale("log")
                axis.axhline(1.0, color="grey", lw=0.8)
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=80)


def _curves(axis: Any, found: dict[str, list[float]]) -> None:
    for form, style in (("soft rank", "o-"), ("gaussian", "s--")):
        for way, color in COLORS.items():
            own = {name: value for name, value in found.items() if name.startswith(f"{form}, {way}")}
            if own:
                width = [float(name.rsplit(" ", 1)[1]) / (100 if form == "gaussian" else 1) for name in own]
                middle, low, high = zip(*own.values(), strict=True)
                spread = [[m - lo for m, lo in zip(middle, low, strict=True)],
                          [hi - m for m, hi in zip(middle, high, strict=True)]]  # fmt: skip
                axis.errorbar(width, middle, [[max(0.0, x) for x in side] for side in spread], fmt=style, color=color,
                              lw=1, ms=4, capsize=2, label=f"{form}, {way}")  # fmt: skip
