"""``vispco compare``: the frontiers of several runs side by side."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vispco.cli.cells import cell
from vispco.cli.finished import read_finished
from vispco.cli.presentation import comparison_data
from vispco.cli.seeds import over_seeds, seed_groups
from vispco.errors import DataError
from vispco.frontier import Point, comparable, epsilon, hypervolume, igd_plus, pareto_front, read_points
from vispco.report import TextTable, draw_frontiers, plot_frontiers, write_report
from vispco.runs import RunFolder, record_comparison
from vispco.saying import as_line

INDICATORS = ("best score", "hypervolume", "IGD+", "epsilon")
SHARED = ("control", "unpruned")
"""Methods that are no search; in a plot they keep their looks."""


def report_points(folder: RunFolder) -> list[Point]:
    """The verified points of a run.

    Raises
    ------
    DataError
        If it has none.
    """
    split = read_finished(folder).report_split
    points = [point for point in read_points(folder.path) if point.split == split]
    if not points:
        raise DataError(f"{folder.path}: has no points of split {split!r}; run the search again")
    return points


def compare(arguments: Sequence[str]) -> None:
    """Print indicators of every run and method against the front of them all; plot them if asked; tell W&B."""
    parser = argparse.ArgumentParser(prog="vispco compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished searches")
    parser.add_argument("-o", "--output", type=Path, help="plot (.png, .pdf or .svg) or report (.html) to write")
    parser.add_argument("--cost", default="flops", help="cost to compare over: flops, kv, latency, ... (flops)")
    parser.add_argument(
        "--wandb", choices=("offline", "online", "none"), default="offline",
        help="a W&B run of the comparison, in the folder wandb beside the plot or else here (offline)",
    )  # fmt: skip
    parser.add_argument("--project", default="vispco", help="of that run (vispco)")
    parser.add_argument("--group", help="of that run, as tracker.group of a search (none)")
    options = parser.parse_args(arguments)
    cost = options.cost
    runs = {str(path): report_points(RunFolder(path)) for path in options.runs}
    comparable([point for points in runs.values() for point in points])
    values = indicators(runs, cost)
    table = _table(runs, values)
    _print(runs, values, table)
    if options.output is not None:
        if options.output.suffix == ".html":
            write_report(options.output, comparison_data(runs, cost, _text(table)))
        else:
            plot_frontiers(overlaid(runs), options.output, cost=cost, title=_title(runs))
        print(as_line(str(options.output)))
    if options.wandb != "none":
        home = Path() if options.output is None else options.output.parent
        record_comparison(
            home, runs, dict(_series(runs)),
            {f"{name} {key}": value for name, row in values.items() for key, value in row.items()},
            draw_frontiers(overlaid(runs), ".png", cost=cost, title=_title(runs)),
            cost=cost, mode=options.wandb, project=options.project, group=options.group,
        )  # fmt: skip


def indicators(runs: Mapping[str, Sequence[Point]], cost: str) -> dict[str, dict[str, float]]:
    """:data:`INDICATORS` of every run and method; distances are to the front of all of them.

    Raises
    ------
    DataError
        If the points do not compare, or have no such cost.
    """
    truth = pareto_front([point for points in runs.values() for point in points], cost)
    return {
        name: {
            "best score": max(point.quality["score"] for point in points),
            "hypervolume": hypervolume(points, cost=cost),
            "IGD+": igd_plus(points, truth, cost=cost),
            "epsilon": epsilon(points, truth, cost=cost),
        }
        for name, points in _series(runs)
    }


def overlaid(runs: Mapping[str, Sequence[Point]]) -> list[Point]:
    """Points for a plot with a line for every run and searched method; of one run alone as in its own folder."""
    short = _short(list(runs))

    def named(run: str, point: Point) -> Point:
        if len(runs) == 1 or point.method in SHARED:
            return point
        return point.model_copy(update={"method": f"{point.method}, {short[run]}"})

    return [named(run, point) for run, members in runs.items() for point in members]


def _title(runs: Mapping[str, Sequence[Point]]) -> str:
    return f"{len(runs)} runs"


def _series(runs: Mapping[str, Sequence[Point]]) -> Iterator[tuple[str, list[Point]]]:
    """Points by run and method."""
    for run, points in runs.items():
        for method in dict.fromkeys(point.method for point in points):
            yield f"{run}: {method}", [point for point in points if point.method == method]


def _short(runs: Sequence[str]) -> dict[str, str]:
    """The ends of paths by which they differ."""
    shared = os.path.commonpath([os.path.abspath(run) for run in runs])
    return {run: os.path.relpath(run, shared) for run in runs}


def _table(runs: Mapping[str, Sequence[Point]], values: Mapping[str, Mapping[str, float]]) -> Table:
    """Indicators of every run and method."""
    table = Table("run and method", "points", *INDICATORS)
    for name, points in _series(runs):
        best, *others = values[name].values()
        table.add_row(cell(name), str(len(points)), f"{best:.3f}", *(f"{number:.4f}" for number in others))
    return table


def _text(table: Table) -> TextTable:
    """The same for a report."""
    cells = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    return TextTable("Indicators", [str(column.header) for column in table.columns], list(cells))


def _print(runs: Mapping[str, Sequence[Point]], values: Mapping[str, Mapping[str, float]], table: Table) -> None:
    console = Console(width=max(120, Console().width))
    console.print(table)
    groups = seed_groups(list(runs))
    if groups:
        console.print(_seed_table(groups, values))


def _seed_table(groups: Sequence[Sequence[str]], values: Mapping[str, Mapping[str, float]]) -> Table:
    """Mean and standard deviation over seeds of every method that was searched under all of them."""
    table = Table("mean ± standard deviation over seeds", "seeds", *INDICATORS)
    for group in groups:
        methods = [name.removeprefix(f"{group[0]}: ") for name in values if name.startswith(f"{group[0]}: ")]
        for method in methods:
            rows = [values[f"{run}: {method}"] for run in group if f"{run}: {method}" in values]
            if method not in SHARED and len(rows) == len(group):
                told = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in over_seeds(rows).values()]
                table.add_row(cell(f"{', '.join(group)}: {method}"), str(len(group)), *told)
    return table
