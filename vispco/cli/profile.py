"""``vispco profile``: measured times of a model on this device, and which budgets can be met."""

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from vispco.capacity import within_memory
from vispco.cli.loading import load_both, source_of
from vispco.cli.opening import open_model
from vispco.cli.overrides import parse_overrides
from vispco.cost import TIMED, Cost, GenerationCost, LatencyTable, Workload, make_costs
from vispco.data import Sample
from vispco.engine.families import describe
from vispco.evaluation import prompt_sizes
from vispco.profiling.calibration import calibrate_for, table_key
from vispco.report.files import check_writable
from vispco.runs import RunSettings
from vispco.saying import as_line
from vispco.search import cheapest_schedule
from vispco.selectors import make_selector

TABLE = "latency.json"
CONTROLS = ("random", "uniform_grid")
"""Selectors that every search is held against, so that their times have to be known too."""


def profile(arguments: Sequence[str]) -> None:
    """Measure, write the table, and print the range of every cost and whether the budgets are in it.

    Raises
    ------
    InputError
        If a setting, the model, the data or the place cannot be used, or a budget or limit cannot be met.
    """
    parser = argparse.ArgumentParser(prog="vispco profile", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path(TABLE), help=f"JSON file to write ({TABLE})")
    options, overrides = parser.parse_known_args(arguments)
    settings = parse_overrides(overrides)
    if settings.cost.table is None:
        check_writable(options.output)
    source_of(settings.data)
    model, processor = open_model(settings.model)
    data = settings.data
    loaded = load_both(data, model, processor)
    searched = loaded.searching.samples
    samples = [*searched, *loaded.reporting.samples]
    if settings.cost.table is None:
        table = new_table(model, processor, samples, settings)
        table.save(options.output)
        print(as_line(str(options.output)))
    else:
        table = known_table(model, processor, samples, settings)
    selector = make_selector(settings.selector.name, settings.selector.params)
    sizes = prompt_sizes(model, processor, searched, data.batch_size)
    work = Workload(
        model.config, sizes, model.dtype, settings.selector.name, selector.flops, settings.cost.new_tokens, table
    )
    costs, floor = make_costs(work), cheapest_schedule(len(describe(model).layers))
    asked = {name: [limit] for name, limit in settings.budget.limits.items()}
    asked[settings.cost.name] = list(settings.budget.values)
    _print(costs, floor, asked, table.key.batch)
    for name, bounds in asked.items():
        for bound in bounds:
            costs[name].check_budget(bound, floor)


def new_table(model: Any, processor: Any, samples: Sequence[Sample], settings: RunSettings) -> LatencyTable:
    """Times of the settings' selectors and of the controls, measured now."""
    own = settings.selector
    selectors: dict[str, Mapping[str, JsonValue]] = {name: {} for name in (*CONTROLS, *settings.selectors)}
    selectors[own.name] = own.params
    how = settings.cost

    def measure(batch: int, **options: Any) -> LatencyTable:
        return calibrate_for(
            model, processor, samples, selectors, batch=batch, clock=how.clock, new_tokens=how.new_tokens, **options
        )

    return within_memory(measure, how.batch, "cost.batch", probe=partial(measure, repeats=1, drift=math.inf))


def known_table(model: Any, processor: Any, samples: Sequence[Sample], settings: RunSettings) -> LatencyTable:
    """The table that the settings name.

    Raises
    ------
    ConfigError
        If it cannot be read, was measured on another device or with other settings, or does not reach to the samples
        or to a selector.
    """
    assert settings.cost.table is not None
    table = LatencyTable.load(settings.cost.table)
    table.check(table_key(model, settings.cost.batch))
    sizes = prompt_sizes(model, processor, samples, settings.data.batch_size)
    for name in (*CONTROLS, *settings.selectors):
        GenerationCost(model.config, sizes, table, name, settings.cost.new_tokens)
    return table


def _print(costs: Mapping[str, Cost], floor: Sequence[float], asked: Mapping[str, Sequence[float]], batch: int) -> None:
    table = Table(title="what schedules can reach, as fractions of the unpruned model")
    for heading in ("cost", "unpruned", "unit", "least", "most", "asked"):
        table.add_column(heading, justify="left" if heading in ("cost", "unit", "asked") else "right")
    for name, cost in costs.items():
        least, most = cost.reachable(floor)
        bounds = ", ".join(
            f"{bound:g}" + ("" if least <= bound <= most else " (out of reach)") for bound in asked.get(name, ())
        )
        unit = f"{cost.unit} for {batch}" if name in TIMED else cost.unit
        table.add_row(name, f"{cost.unpruned:.4g}", unit, f"{least:.3f}", f"{most:.3f}", bounds or "-")
    Console(width=max(100, Console().width)).print(table)
