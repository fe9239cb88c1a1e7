"""Rank correlation, signs and scale against the width of the relaxation."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

TITLES = {"rank": "rank correlation", "signs": "sign agreement", "scale": "|estimate| / |difference|, median"}
COLORS = {"soft forward": "tab:blue", "hard forward": "tab:red", "leave one in or out": "tab:green"}


def draw(found: dict[str, dict[str, dict[str, dict[str, list[float]]]]], path: Path) -> None:
    """Draw one row per group of directions and model; dotted is what one half of the samples says of the other."""
    rows = [(f"{group}, {title}", part) for group, parts in found.items() for title, part in parts.items()]
    figure = Figure(figsize=(12, 2.8 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(TITLES), squeeze=False)
    for row, (name, by_name) in zip(axes, rows, strict=True):
        for axis, (key, title) in zip(row, TITLES.items(), strict=True):
            axis.set(xscale="log", xlabel="temperature, or sigma / 100")
            axis.set_title(f"{title}, {name}", fontsize=9)
            if key == "scale":
                axis.set_yscale("log")
                axis.axhline(1.0, color="grey", lw=0.8)
            else:
                axis.axhline(by_name[""][key][0], color="grey", ls=":", lw=1)
            _curves(axis, {name: values[key] for name, values in by_name.items() if name})
    axes[0][0].legend(fontsize=6)
    figure.savefig(path, dpi=70)


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
