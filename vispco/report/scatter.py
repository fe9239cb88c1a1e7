"""One cost against another: where saving FLOPs is saving time, and where it is not."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vispco.errors import DataError
from vispco.frontier import Point, rank_correlation
from vispco.report.files import write_whole
from vispco.report.plots import RC, cost_label, render, suffix_of
from vispco.report.series import INK, group_series
from vispco.saying import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_costs(
    points: Sequence[Point],
    path: str | os.PathLike[str],
    first: str = "flops",
    second: str = "latency",
    title: str = "",
) -> None:
    """Scatter of two costs of all points, with their rank correlation; written whole or not at all.

    Parameters
    ----------
    points : sequence of Point
        At least two of different cost.
    path : path
        Its suffix, .pdf, .png or .svg, decides the format.
    first, second : str
        Costs on the horizontal and on the vertical axis.
    title : str
        Above the plot.

    Raises
    ------
    DataError
        If there are no points, they do not merge, one lacks a cost, or all cost the same.
    RunError
        If the suffix is another one or the place cannot be written.
    """
    import matplotlib

    suffix = suffix_of(path)
    with matplotlib.rc_context(RC):
        write_whole(path, render(_scatter(points, first, second, title), suffix))


def _scatter(points: Sequence[Point], first: str, second: str, title: str) -> "Figure":
    from matplotlib.figure import Figure

    if not points:
        raise DataError("no points to plot; give at least two evaluated points")
    tau = rank_correlation(points, first, second)
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axline((1.0, 1.0), slope=1.0, color=INK, alpha=0.4, linewidth=1.0, linestyle=":", label="equal savings")
    for series in reversed(group_series(points, first)):
        members = series.main + series.dominated
        axes.plot(
            [point.costs[first] for point in members],
            [point.costs[second] for point in members],
            label=plain(series.label),
            linestyle="none",
            color=series.style.color,
            marker=series.style.marker or ".",
            markersize=series.style.size or 4.0,
            markeredgecolor="white" if series.style.size > 5 else series.style.color,
            markeredgewidth=0.8,
        )
    axes.set(xlabel=plain(cost_label(first)), ylabel=plain(cost_label(second)))
    axes.set_title(f"Kendall's tau {tau:.2f} over {len(points)} points", loc="left", fontsize=9.5)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3, frameon=False)
    if title:
        figure.suptitle(plain(title), fontsize=11)
    return figure
