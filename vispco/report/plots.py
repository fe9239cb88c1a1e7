"""Figures for papers and run folders: frontiers, and schedules as a heat map.

Only matplotlib's objects are used, never its pyplot state, and it is imported where it is needed: it is slow to load
and most commands draw nothing.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vispco.errors import DataError, RunError
from vispco.frontier import Point
from vispco.report.files import write_whole
from vispco.report.series import INK, Series, caution, group_series
from vispco.saying import plain
from vispco.schedule import check_keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RC: Any = {  # matplotlib spells out its keys as a type, and the set differs from version to version
    "svg.fonttype": "none",  # text stays text: it can be searched, and style sheets reach it
    "svg.hashsalt": "vispco",  # equal figures are equal bytes
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names come from users; a "$" in them is a dollar
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
SUFFIXES = (".pdf", ".png", ".svg")
PRINT_DPI = 200
COST_NAMES = {
    "flops": "prefill FLOPs",
    "decode_flops": "decoding FLOPs",
    "kv": "KV cache",
    "peak": "peak activations (estimate)",
    "latency": "time to first token (predicted)",
    "generation": "prefill and decoding time (predicted)",
}
QUALITY_NAMES = {"score": "accuracy", "kl": "KL from the unpruned model"}
WARNING = "#d55e00"


def plot_frontiers(
    points: Sequence[Point],
    path: str | os.PathLike[str],
    *,
    cost: str = "flops",
    quality: str = "score",
    title: str = "",
) -> None:
    """Plot quality over cost, one staircase per method, one marker per control, and write it whole or not at all.

    A comparison in which controls are missing says so on the plot.

    Parameters
    ----------
    points : sequence of Point
        At least one; see :func:`~vispco.report.series.group_series` for how they are grouped.
    path : path
        Its suffix, .pdf, .png or .svg, decides the format.
    cost, quality : str
        Keys into every point's ``costs`` and ``quality``.
    title : str
        Above the plot.

    Raises
    ------
    DataError
        If there are no points, if they do not merge, or if one of them lacks a number.
    RunError
        If the suffix is another one or the place cannot be written.
    """
    write_whole(path, draw_frontiers(points, suffix_of(path), cost=cost, quality=quality, title=title))


def draw_frontiers(
    points: Sequence[Point], suffix: str, *, cost: str = "flops", quality: str = "score", title: str = ""
) -> bytes:
    """What :func:`plot_frontiers` writes, for a file of that suffix."""
    import matplotlib

    with matplotlib.rc_context(RC):
        series = group_series(points, cost, quality)
        return render(_frontiers(points, series, cost, quality, title), suffix)


def plot_schedules(
    rows: Sequence[tuple[float, Sequence[float]]], path: str | os.PathLike[str], *, title: str = ""
) -> None:
    """Heat map of schedules, one row per budget and one column per decoder layer; written whole or not at all.

    Parameters
    ----------
    rows : sequence of (budget, keep)
        At least one; all schedules have the same number of layers. Cells say the percentage of visual tokens kept.
    path : path
        Its suffix, .pdf, .png or .svg, decides the format.
    title : str
        Above the plot.

    Raises
    ------
    DataError
        If there are no rows.
    ConfigError
        If a row is no schedule or differs in length from the first.
    RunError
        As :func:`plot_frontiers`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not rows:
        raise DataError("no schedules to plot; give at least one (budget, keep)")
    suffix = suffix_of(path)
    layers = len(rows[0][1])
    table = [check_keep(keep, layers) for _, keep in rows]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(1.1 + 0.42 * layers, 0.85 + 0.32 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.pcolormesh(table, cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=1.5)
        for row, ratios in enumerate(table):
            for layer, ratio in enumerate(ratios):
                color = "white" if ratio > 0.6 else INK
                axes.text(layer + 0.5, row + 0.5, percent(ratio), ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks([layer + 0.5 for layer in range(layers)], [str(layer) for layer in range(layers)])
        axes.set_yticks([row + 0.5 for row in range(len(rows))], [f"{budget:g}" for budget, _ in rows])
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="decoder layer", ylabel="budget")
        axes.set_title(plain(title) or "visual tokens kept, %", loc="left")
        write_whole(path, render(figure, suffix))


def percent(ratio: float) -> str:
    """Keep ratio as a whole percentage; what is not nothing never reads as 0."""
    return "<1" if 0.0 < ratio < 0.005 else str(math.floor(100 * ratio + 0.5))


def cost_label(cost: str) -> str:
    """What a cost is called on an axis or in a table."""
    return f"{COST_NAMES.get(cost, cost)}, fraction of unpruned"


def quality_label(quality: str, split: str) -> str:
    """What a quality is called on an axis or in a table."""
    return f"{QUALITY_NAMES.get(quality, quality)} on {split} split"


def _frontiers(points: Sequence[Point], series: Sequence[Series], cost: str, quality: str, title: str) -> "Figure":
    from matplotlib.figure import Figure

    if not points:
        raise DataError("no points to plot; give at least one evaluated point")
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.05, 0.07)
    axes.set(xlabel=plain(cost_label(cost)), ylabel=plain(quality_label(quality, points[0].split)))
    for depth, entry in enumerate(reversed(series)):  # the first of the legend lies on top
        _draw(axes, entry, cost, quality, depth)
    # Outside the axes it cannot hide a point, whatever the points are.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3, frameon=False)
    if title:
        figure.suptitle(plain(title), fontsize=11)
    if warning := caution(points):
        axes.set_title(warning, loc="left", color=WARNING, fontweight="bold", fontsize=9.5)
    return figure


def _draw(axes: "Axes", series: Series, cost: str, quality: str, depth: int) -> None:
    style = series.style
    if series.dominated:
        axes.plot(
            [point.costs[cost] for point in series.dominated],
            [point.quality[quality] for point in series.dominated],
            label=plain(f"{series.label}, dominated"),
            color=style.color,
            linestyle="none",
            marker=style.marker,
            markersize=style.size - 1,
            markerfacecolor="none",
            zorder=3 + depth,
        )
    axes.plot(
        [point.costs[cost] for point in series.main],
        [point.quality[quality] for point in series.main],
        label=plain(series.label),
        color=style.color,
        linestyle=style.line or "none",
        linewidth=style.width,
        drawstyle="steps-post",
        marker=style.marker,
        markersize=style.size,
        markeredgecolor="white" if style.size > 5 else style.color,
        markeredgewidth=0.8,
        zorder=3 + depth,
    )


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Format that a file's name asks for; RunError if there is none such."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise RunError(f"{path}: no figure format {suffix!r}; let the name end in one of {', '.join(SUFFIXES)}")
    return suffix


def render(figure: "Figure", suffix: str) -> bytes:
    """Bytes of the figure, without date or maker: a figure drawn twice is one file."""
    nothing = {
        ".pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
        ".png": {"Software": None},
        ".svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    }
    stream = io.BytesIO()
    dpi = "figure" if suffix == ".svg" else PRINT_DPI
    figure.savefig(stream, format=suffix[1:], dpi=dpi, metadata=nothing[suffix])
    return stream.getvalue()
