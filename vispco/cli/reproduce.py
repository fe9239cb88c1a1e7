"""``vispco reproduce``: measure again what a run exported, and hold it against the record."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vispco.cli.agreement import Held, hold
from vispco.cli.cells import cell
from vispco.cli.parsing import Parser
from vispco.cli.recorded import MOVED, Recorded, applied
from vispco.cli.repeating import repeat
from vispco.cost import TIMED
from vispco.errors import DifferenceError
from vispco.frontier import Point
from vispco.report import COST_NAMES
from vispco.report.files import check_writable, write_whole
from vispco.runs import environment, environment_differences

Differences = Mapping[str, tuple[Any, Any]]


def reproduce(arguments: Sequence[str]) -> None:
    """Measure, print every number that was recorded beside the new one, and say what differs.

    Raises
    ------
    InputError
        If the run, an override, the place, the model or the data cannot be used; before anything is measured.
    DifferenceError
        If a number is another one than was recorded.
    """
    options = _parse(arguments)
    if options.output is not None:
        check_writable(options.output)
    run = Recorded.read(options.run, options.overrides)
    points, left_out = _choose(run, options.all)
    now = environment()
    made = [environment_differences(then, now) for then in run.environments]
    differences = {name: pair for each in made for name, pair in each.items()}
    again = repeat(run, points, Console(stderr=True))
    exact = bool(made) and not differences and again.on_cpu
    found = hold(run, points, again, exact=exact)
    if not again.timed and TIMED & run.points[0].costs.keys():
        left_out["costs in time"] = "the table of times that they were predicted from is not there"
    if options.output is not None:
        write_whole(options.output, _record(run, found, left_out, exact, now, differences).encode())
    _print(run, found, left_out, exact)
    wrong = [held for held in found if not held.agrees]
    if wrong:
        _explain(wrong, run, differences)
        records = list(dict.fromkeys(held.record for held in wrong))
        raise DifferenceError(
            f"{options.run}: {len(wrong)} of {len(found)} numbers are not what was recorded, the first is "
            f"{wrong[0].field} of {records[0]!r}: {_told(wrong[0].then)} in the record, {_told(wrong[0].now)} now"
        )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="vispco reproduce", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished search")
    parser.add_argument("--all", action="store_true", help="every verified point, not only what was exported")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write: every number, then and now")
    parser.add_argument("overrides", nargs="*", help=f"where things are on this machine: {', '.join(MOVED)}")
    return parser.parse_intermixed_args(list(arguments))


def _choose(run: Recorded, everything: bool) -> tuple[list[Point], dict[str, str]]:
    """Points to measure again, and why others are not, by name."""
    exported = {applied(config) for config in run.configs.values()}
    points, left_out = [], {}
    for point in run.points:
        if point.method.endswith(" per sample"):
            left_out[point.name] = "the schedules of single samples are not stored"
        elif everything or applied(point) in exported:
            points.append(point)
    return points, left_out if everything else {}


def _record(
    run: Recorded, found: Sequence[Held], left_out: Mapping[str, str], exact: bool, now: Mapping[str, Any],
    differences: Differences,
) -> str:  # fmt: skip
    """The JSON file."""
    record = {
        "schema_version": "1.0",
        "run": str(run.path),
        "agrees": all(held.agrees for held in found),
        "exact": exact,
        "numbers": [{**vars(held), "difference": held.difference, "agrees": held.agrees} for held in found],
        "left_out": dict(left_out),
        "environment": {
            "starts": run.environments,
            "now": dict(now),
            "differences": {name: {"then": then, "now": here} for name, (then, here) in differences.items()},
        },
    }
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def _print(run: Recorded, found: Sequence[Held], left_out: Mapping[str, str], exact: bool) -> None:
    shown = {
        COST_NAMES[run.settings.cost.name]: f"costs.{run.settings.cost.name}",
        "KL": "quality.kl",
        "accuracy": "quality.score",
    }
    table = Table(
        "record", *(f"{title}{when}" for title in shown for when in ("", " now")), "largest difference", "agrees"
    )
    for record in dict.fromkeys(held.record for held in found):
        own = {held.field: held for held in found if held.record == record}
        numbers = [_short(number) for field in shown.values() for number in _both(own.get(field))]
        worst = max(own.values(), key=lambda held: math.inf if held.difference is None else held.difference)
        largest = _short(worst.difference) + (f" {worst.field.partition('.')[2]}" if worst.difference else "")
        table.add_row(
            cell(record), *numbers, cell(largest), "yes" if all(held.agrees for held in own.values()) else "no"
        )
    console = Console(width=max(140, Console().width))
    console.print(table)
    for name, reason in left_out.items():
        console.print(cell(f"{name}: left out, {reason}"), soft_wrap=True)
    how = "to the last bit: machine and releases are those of the run" if exact else _within(found)
    console.print(f"held against the record {how}", highlight=False, soft_wrap=True)


def _both(held: Held | None) -> tuple[float | None, float | None]:
    return (None, None) if held is None else (held.then, held.now)


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"


def _within(found: Sequence[Held]) -> str:
    allowed = {held.field: held.allowed for held in found if held.field in ("quality.kl", "quality.score")}
    told = ", ".join(f"{field.removeprefix('quality.')} within {value:g}" for field, value in allowed.items())
    return f"with tolerance, costs exactly, {told}: machine or releases are others, or not known"


def _explain(wrong: Sequence[Held], run: Recorded, differences: Differences) -> None:
    """Every number that differs, and what else does."""
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(cell(line), soft_wrap=True)

    for held in wrong:
        gap = "" if held.difference is None else f", off by {held.difference:.3g} (allowed {held.allowed:.3g})"
        say(f"{held.record}: {held.field} {_told(held.then)} in the record, {_told(held.now)} now{gap}")
    for name, (then, now) in differences.items():
        say(f"environment: {name} was {_told(then)}, is {_told(now)}")
    if not run.environments:
        say("environment: the run has not recorded its own")
    elif not differences:
        say("environment: nothing differs")


def _told(value: Any) -> str:
    return "missing" if value is None else repr(value)
