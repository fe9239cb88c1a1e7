"""One search from checkpoint to verified frontier."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vispco import parallel
from vispco.cli.cells import cell
from vispco.cli.finding import Finder, Found, progress_bar
from vispco.cli.loading import Loaded, load_both, source_of
from vispco.cli.official import check_scorable, judge_of, official_of
from vispco.cli.opening import open_model
from vispco.cli.profile import TABLE, known_table, new_table
from vispco.cli.resuming import facts_of
from vispco.cli.sampling import knobs_of, storage_of
from vispco.config import ModelCard
from vispco.cost import LatencyTable
from vispco.data import Sample, Task
from vispco.engine import model_card
from vispco.errors import BudgetError, ModelError, ParallelError
from vispco.evaluation import (
    Candidate,
    Evaluator,
    Provenance,
    Quality,
    TeacherCache,
    basis_of,
    make_point,
    measure,
    measure_downsampled,
)
from vispco.frontier import Interval, Point, paired_difference
from vispco.kernels import check_kernel
from vispco.runs import STATE, RunSettings, Tracker
from vispco.runs.settings import LearnedMethod, SampledMethod
from vispco.search import cheapest_schedule
from vispco.selectors import as_nested, make_selector
from vispco.state import State

FACTORS = (0.9, 0.7, 0.5, 0.3)
"""Sizes of pictures, as fractions of their sides, of the control that shows the model smaller ones."""

Measured = tuple[Point, Quality]


@dataclass(frozen=True)
class Row:
    """One budget of the result, on the report split."""

    budget: float
    point: Point
    rival: Point | None
    regret: Interval | None


@dataclass
class Outcome:
    """Everything that a run hands over; points are of the report split unless ``found`` holds them.

    ``qualities`` holds those of single samples, by the names of ``points``.
    """

    card: ModelCard
    cost: str
    table: LatencyTable | None
    found: list[Found]
    points: list[Point]
    rows: list[Row]
    unpruned: Point
    qualities: dict[str, Quality] = field(repr=False)
    loaded: Loaded = field(repr=False)
    model: Any = field(repr=False)
    processor: Any = field(repr=False)

    @property
    def samples(self) -> Sequence[Sample]:
        """Of the report split."""
        return self.loaded.reporting.samples


class SearchJob:
    """Runs the method of the settings and its baselines on one split, and verifies what they found on another.

    Parameters
    ----------
    settings : RunSettings
    tracker : Tracker
        Gets loss, violation and multiplier of every learning step.
    folder : Path
        Of the run.
    """

    def __init__(self, settings: RunSettings, tracker: Tracker, folder: Path):
        self.settings, self.tracker, self.folder = settings, tracker, folder
        self.console = Console(stderr=True, quiet=not parallel.is_main())
        self.state = State(folder / STATE if parallel.is_main() else None)
        self._bar = partial(progress_bar, console=self.console, shown=settings.progress)

    def run(self) -> Outcome:
        """Do all of it.

        Raises
        ------
        InputError
            Of the kind that fits, before any long work.
        """
        settings, data, selector = self.settings, self.settings.data, self.settings.selector
        # What can be refused without opening a checkpoint is refused first.
        chooser = make_selector(selector.name, selector.params)
        if isinstance(settings.search, LearnedMethod):
            as_nested(chooser)
        methods = (settings.search, *settings.baseline.methods)
        for method in methods:
            if isinstance(method, SampledMethod):
                if parallel.size() > 1:
                    raise ParallelError(
                        f"trials of search={method.name} are not shared out by torchrun; start {parallel.size()} "
                        "single processes with the same search.storage=PATH instead"
                    )
                knobs_of(settings, method)
                storage_of(method, self.folder)
        check_kernel(settings.kernel.name, settings.kernel.steps)
        source_of(data)
        task, official = Task(data.prompt), official_of(data)
        model, processor = open_model(settings.model)
        card = model_card(model, model.config._name_or_path)
        loaded = load_both(data, model, processor)
        searching, reporting = loaded.searching.samples, loaded.reporting.samples
        check_scorable(official, processor, [*searching, *reporting])
        provenances = [
            Provenance.of(model, processor, settings.seed, samples, judge_of(data), task)
            for samples in (searching, reporting)
        ]
        self.state.check(facts_of(settings, model, *provenances))
        if self.state.resumed:
            self.console.print(cell(f"{self.folder}: goes on with what was found before"), soft_wrap=True)
        table = self._table(model, processor, [*searching, *reporting])
        cache = TeacherCache(limit=int(data.cache_gib * 2**30), say=self._say) if data.cache_gib else None
        evaluator_on = partial(
            Evaluator, model, processor, selector=selector.name, selector_params=selector.params,
            batch_size=data.batch_size, cache=cache, new_tokens=settings.cost.new_tokens, table=table,
            state=self.state,
        )  # fmt: skip
        with self._bar("unpruned answers"):
            evaluator = evaluator_on(searching)
        cost = evaluator.cost(settings.cost.name)
        cost = cost.within({evaluator.cost(name): limit for name, limit in settings.budget.limits.items()})
        for budget in settings.budget.values:
            cost.check_budget(budget, cheapest_schedule(card.layers))
        self.state.begin()
        finder = Finder(settings, self.tracker, self._bar, cost, provenances[0], self.folder)
        found = [finder.find(method, evaluator) for method in methods]
        if not found[0].best:
            front = {candidate.name for candidate in found[0].front}
            points = [point for point in found[0].points if point.name in front or not front]
            least = min(point.costs[cost.name] for point in points)
            limits = f" and the limits {settings.budget.limits}" if settings.budget.limits else ""
            raise BudgetError(
                f"no schedule of search={settings.search.name} is within any of the budgets "
                f"{list(settings.budget.values)}{limits}; its cheapest costs {least:.3f} of {cost.name}, raise a "
                "budget or extend the ladder"
            )
        with self._bar("unpruned answers of the report split"):
            report = evaluator_on(reporting, official=official)
        measured = self._verify(report, found, provenances[1], card.layers)
        rows = self._rows(found, measured)
        points = [point for point, _ in measured.values()]
        qualities = {name: quality for name, (_, quality) in measured.items()}
        return Outcome(
            card, cost.name, table, found, points, rows, measured["unpruned"][0], qualities, loaded, model, processor
        )

    def _table(self, model: Any, processor: Any, samples: Sequence[Sample]) -> LatencyTable | None:
        """Measured times: those that were given, or new ones, which stay with the run, if a budget is on time."""
        settings = self.settings
        if settings.cost.table is not None:
            return known_table(model, processor, samples, settings)
        if not settings.timed:
            return None
        if parallel.size() > 1:
            raise ParallelError(
                "times are not measured while several processes run; measure them first, with `vispco profile -o "
                "latency.json`, and give cost.table=latency.json"
            )
        place = self.folder / TABLE
        if self.state.resumed and place.exists():  # times are measured once: they would be others now
            return LatencyTable.load(place)
        with self._bar("times of layers and selectors"):
            table = new_table(model, processor, samples, settings)
        table.save(place)
        return table

    def _verify(
        self, report: Evaluator, found: Sequence[Found], provenance: Provenance, layers: int
    ) -> dict[str, Measured]:
        """Points of the report split by name: all fronts, the unpruned model and the controls."""
        main = found[0]
        default = (1.0,) * 2 + (0.5,) * (layers - 2)
        name = self.settings.selector.name
        candidates = {candidate.name: candidate for each in found for candidate in (*each.front, *each.best.values())}
        candidates["unpruned"] = Candidate("unpruned", "unpruned", (1.0,) * layers)
        label = f"{name} default (layer 2, 50 %)"
        candidates[label] = Candidate(label, "control", default)
        measured = self._measure_on(report, list(candidates.values()), provenance)
        for control, params in (("random", {"seed": self.settings.seed}), ("uniform_grid", {})):
            group = [
                Candidate(f"{control} b={budget:g}", "control", candidate.schedule, budget)
                for budget, candidate in main.best.items()
            ]
            with self._optional(control):
                measured |= self._measure_on(report.share(control, params), group, provenance)
        if main.answers is not None and main.answers.features is not None:
            measured |= self._measure_each(report, main, provenance)
        with self._optional("downsampled"):
            split = self.settings.data.report_split
            for point, quality in measure_downsampled(report, FACTORS, provenance, split=split):
                measured[point.name] = (point, quality)
        return measured

    def _measure_on(
        self, report: Evaluator, candidates: Sequence[Candidate], provenance: Provenance
    ) -> dict[str, Measured]:
        """Points of the report split by name, under one selector."""
        split = self.settings.data.report_split
        title = f"{split} split: {len(candidates)} schedules, {report.selector_name}"
        with self._bar(title, len(report.samples)) as (bar, task):
            found = measure(report, candidates, provenance, split=split, advance=partial(bar.advance, task))
        return {point.name: (point, quality) for point, quality in found}

    def _measure_each(self, report: Evaluator, main: Found, provenance: Provenance) -> dict[str, Measured]:
        """Points of the predictor's schedules per sample; their ``keep`` is the mean over samples."""
        assert main.answers is not None
        costs, measured = report.costs(), {}
        limits = {costs[name]: limit for name, limit in self.settings.budget.limits.items()}
        cost = costs[self.settings.cost.name].within(limits)
        for budget in main.best:
            schedules = main.answers.each(budget, report.batches, cost)
            [quality] = report.evaluate([schedules])
            name = f"{main.method} per sample b={budget:g}"
            keep = tuple(np.minimum.accumulate(np.mean(schedules, axis=0)).tolist())
            point = make_point(
                Candidate(name, f"{main.method} per sample", keep, budget), quality, report.samples,
                {name: each.exact_each(schedules) for name, each in costs.items()}, provenance, basis=basis_of(costs),
                split=self.settings.data.report_split,
                selector=report.selector_name, selector_params=report.selector_params,
            )  # fmt: skip
            measured[name] = (point, quality)
        return measured

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def _optional(self, control: str) -> Iterator[None]:
        """Say that a control is missing, and why, where the model does not allow it."""
        try:
            yield
        except ModelError as error:
            self._say(f"control {control} is missing: {error}")

    def _rows(self, found: Sequence[Found], measured: dict[str, Measured]) -> list[Row]:
        main = found[0]
        rivals = next((each.best for each in found if each.method == "grid" and each is not main), {})
        rows = []
        for budget in sorted(main.best, reverse=True):
            point, quality = measured[main.best[budget].name]
            rival = rivals.get(budget)
            if rival is None:
                rows.append(Row(budget, point, None, None))
                continue
            other, rival_quality = measured[rival.name]
            regret = paired_difference(rival_quality.score, quality.score, seed=self.settings.seed)
            rows.append(Row(budget, point, other, regret))
        return rows
