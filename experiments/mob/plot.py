"""KL by the share of K_p, the two radii against one another, and the radii's correlation with errors."""

from pathlib import Path
from typing import Any

from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

GROUPS = {"strong": "tab:blue", "weak": "tab:orange"}
STYLES = ("-", "--", ":")


def draw(results: dict[str, Any], path: Path) -> None:
    ratios = [f"{ratio:g}" for ratio in results["config"]["ratios"]]
    shares = results["config"]["shares"]
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, color in GROUPS.items():
        for ratio, style in zip(ratios, STYLES, strict=True):
            means = [value for value, _, _ in results["curves"][name][ratio]["kl"]]
            left.plot(shares, means, style, color=color, label=f"{name}, {float(ratio):.0%}")
            left.fill_between(
                shares,
                *zip(*(row[1:] for row in results["curves"][name][ratio]["kl"]), strict=True),
                color=color,
                alpha=0.12,
            )
    left.set(xlabel="share of prompt centres, K_p / K", ylabel="KL to the unpruned model, nats", yscale="log")
    left.set_title("by coupling at its median, k = 4", fontsize=9)
    left.legend(fontsize=7)
    colors = LogNorm(*_ends(results["curves"]["all"]))
    for ratio, marker in zip(ratios, "os^", strict=True):
        part = results["curves"]["all"][ratio]
        kl, label = [value for value, _, _ in part["kl"]], f"{float(ratio):.0%}"
        points = middle.scatter(part["e_v"], part["e_p"], c=kl, norm=colors, marker=marker, label=label)
        middle.plot(part["e_v"], part["e_p"], color="grey", lw=0.6)
        for place in (0, len(shares) - 1):
            middle.annotate(f"{shares[place]:g}", (part["e_v"][place], part["e_p"][place]), fontsize=7)
    figure.colorbar(points, ax=middle, label="KL, nats")
    middle.set(xlabel="e_v, radius over visual tokens", ylabel="e_p, radius over the question")
    middle.set_title("radii from share 0 to 1, means", fontsize=9)
    middle.legend(fontsize=7)
    names = ("e_p", "e_v", "max", "sum")
    for place, ratio in enumerate(ratios):
        rows = [results["bound"][ratio]["settings"]["kl"][name] or [0.0, 0.0, 0.0] for name in names]
        at = [index + 0.25 * (place - 1) for index in range(len(names))]
        spread = [[v - low for v, low, _ in rows], [high - v for v, _, high in rows]]
        right.bar(at, [v for v, _, _ in rows], 0.22, yerr=spread, label=f"{float(ratio):.0%}")
    right.set_xticks(range(len(names)), names)
    right.axhline(0, color="grey", lw=0.8)
    right.set_title("rank correlation with KL, settings within a sample", fontsize=9)
    right.legend(fontsize=7)
    if results["config"]["rehearsal"]:
        figure.suptitle("REHEARSAL: too few samples to mean anything", color="red")
    figure.savefig(path, dpi=80)


def _ends(curves: dict[str, Any]) -> tuple[float, float]:
    means = [value for part in curves.values() for value, _, _ in part["kl"]]
    return min(means), max(means)
