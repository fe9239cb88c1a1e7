"""``vispco compare``: the frontiers of several runs side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vispco.cli.presentation import comparison_data
from vispco.errors import DataError
from vispco.frontier import Point, comparable, epsilon, hypervolume, igd_plus, pareto_front, read_points
from vispco.report import TextTable, plot_frontiers, write_report
from vispco.runs import RunFolder


def report_points(folder: RunFolder) -> list[Point]:
    """The verified points of a run.

    Raises
    ------
    DataError
        If it has none.
    """
    split = folder.read_frontier()["report_split"]
    points = [point for point in read_points(folder.path) if point.split == split]
    if not points:
        raise DataError(f"{folder.path}: has no points of split {split!r}; run the search again")
    return points


def compare(arguments: Sequence[str]) -> None:
    """Print indicators of every run and method against the front of them all; plot them if asked."""
    parser = argparse.ArgumentParser(prog="vispco compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished searches")
    parser.add_argument("-o", "--output", type=Path, help="plot (.png, .pdf or .svg) or report (.html) to write")
    parser.add_argument("--cost", default="flops", help="cost to compare over: flops, kv, latency, ... (flops)")
    options = parser.parse_args(arguments)
    cost = options.cost
    series: dict[str, list[Point]] = {}
    runs = {str(path): report_points(RunFolder(path)) for path in options.runs}
    for run, points in runs.items():
        for point in points:
            series.setdefault(f"{run}: {point.method}", []).append(point)
    everything = [point for points in series.values() for point in points]
    comparable(everything)
    truth = pareto_front(everything, cost)
    table = Table("run and method", "points", "best score", "hypervolume", "IGD+", "epsilon")
    for name, points in series.items():
        numbers = (
            hypervolume(points, cost=cost),
            igd_plus(points, truth, cost=cost),
            epsilon(points, truth, cost=cost),
        )
        best = max(point.quality["score"] for point in points)
        table.add_row(name, str(len(points)), f"{best:.3f}", *(f"{number:.4f}" for number in numbers))
    Console().print(table)
    if options.output is not None and options.output.suffix == ".html":
        cells = zip(*(column.cells for column in table.columns), strict=True)
        head = [str(column.header) for column in table.columns]
        write_report(options.output, comparison_data(runs, cost, TextTable("Indicators", head, list(cells))))
        print(options.output)
    elif options.output is not None:
        plot_frontiers(everything, options.output, cost=cost, title=f"{len(options.runs)} runs")
        print(options.output)
