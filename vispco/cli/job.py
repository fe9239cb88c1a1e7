"""One search from checkpoint to verified frontier."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vispco.config import ModelCard
from vispco.cost import FlopCost
from vispco.data import Sample, load_samples
from vispco.engine import load_checkpoint, model_card
from vispco.errors import BudgetError, ModelError
from vispco.evaluation import Candidate, Evaluator, Ledger, Provenance, Quality, measure, measure_downsampled
from vispco.frontier import Interval, Point, best_at_cost, paired_difference, pareto_front
from vispco.kernels import make_kernel
from vispco.runs import RunSettings, Tracker
from vispco.runs.settings import FitPruneMethod, GridMethod, LearnedMethod, SampledMethod, WithdrawalMethod
from vispco.search import (
    GRIDS,
    Calibration,
    FitPruneSearch,
    LearnedSearch,
    LearnedSettings,
    Proposal,
    cheapest_schedule,
    check_knobs,
    choose_layers,
    sample,
    withdrawal_schedules,
)
from vispco.search import Progress as Step
from vispco.selectors import as_nested, make_selector

FACTORS = (0.9, 0.7, 0.5, 0.3)
"""Sizes of pictures, as fractions of their sides, of the control that shows the model smaller ones."""

Measured = tuple[Point, Quality]
Method = LearnedMethod | GridMethod | SampledMethod | FitPruneMethod | WithdrawalMethod


@dataclass
class Found:
    """What one method found on the search split.

    Attributes
    ----------
    method : str
    best : dict of float to Candidate
        The schedule chosen for each budget.
    search_kl : dict of float to float
        KL by which it was chosen, for each budget.
    front : list of Candidate
        Everything worth verifying, the best ones included.
    points : list of Point
        What was measured on the search split.
    forwards : float
        Model FLOPs spent, in forwards of the unpruned model over one sample.
    """

    method: str
    best: dict[float, Candidate]
    search_kl: dict[float, float]
    front: list[Candidate]
    points: list[Point]
    forwards: float


@dataclass(frozen=True)
class Row:
    """One budget of the result, on the report split."""

    budget: float
    point: Point
    rival: Point | None
    regret: Interval | None


@dataclass
class Outcome:
    """Everything that a run hands over; points are of the report split unless ``found`` holds them."""

    card: ModelCard
    found: list[Found]
    points: list[Point]
    rows: list[Row]
    unpruned: Point
    samples: Sequence[Sample] = field(repr=False)
    model: Any = field(repr=False)
    processor: Any = field(repr=False)


class SearchJob:
    """Runs the method of the settings and its baselines on one split, and verifies what they found on another.

    Parameters
    ----------
    settings : RunSettings
    tracker : Tracker
        Gets loss, violation and multiplier of every learning step.
    """

    def __init__(self, settings: RunSettings, tracker: Tracker):
        self.settings, self.tracker = settings, tracker
        self.console = Console(stderr=True)

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
        for method in (settings.search, *self._baselines()):
            if isinstance(method, SampledMethod):
                check_knobs(chooser, method.tune)
        make_kernel(settings.kernel.name, settings.kernel.steps)
        model, processor = load_checkpoint(settings.model.path, settings.model.dtype, settings.model.attention)
        provenance = Provenance.of(model, processor, settings.seed)
        card = model_card(model, settings.model.path)
        searching = load_samples(data.path, data.search_split, data.search_samples, seed=data.seed)
        reporting = load_samples(data.path, data.report_split, data.report_samples, seed=data.seed)
        size = data.batch_size
        with self._bar("unpruned answers"):
            evaluator = Evaluator(model, processor, searching, selector.name, selector.params, batch_size=size)
        cost = evaluator.cost(settings.cost.name)
        for budget in settings.budget.values:
            cost.check_budget(budget, cheapest_schedule(card.layers))
        found = [self._search(method, evaluator, cost, provenance) for method in (settings.search, *self._baselines())]
        if not found[0].best:
            front = {candidate.name for candidate in found[0].front}
            least = min(point.costs[cost.name] for point in found[0].points if point.name in front)
            raise BudgetError(
                f"no schedule of search={settings.search.name} is within any of the budgets "
                f"{list(settings.budget.values)}; its cheapest costs {least:.3f}, raise a budget or extend the ladder"
            )
        with self._bar("unpruned answers of the report split"):
            report = Evaluator(model, processor, reporting, selector.name, selector.params, batch_size=size)
        measured = self._verify(report, found, provenance, card.layers)
        rows = self._rows(found, measured)
        points = [point for point, _ in measured.values()]
        return Outcome(card, found, points, rows, measured["unpruned"][0], reporting, model, processor)

    def _baselines(self) -> tuple[GridMethod | SampledMethod, ...]:
        return self.settings.baseline.methods

    # --- searching ---------------------------------------------------------------------------------------------------

    def _search(self, method: Method, evaluator: Evaluator, cost: FlopCost, provenance: Provenance) -> Found:
        if isinstance(method, LearnedMethod):
            return self._learn(method, evaluator.head(method.samples, Ledger()), cost)
        if isinstance(method, SampledMethod):
            return self._sample(method, evaluator.head(method.samples, Ledger()), cost, provenance)
        if isinstance(method, FitPruneMethod):
            return self._fit(method, evaluator.head(method.samples, Ledger()), cost, provenance)
        if isinstance(method, WithdrawalMethod):
            return self._withdraw(method, evaluator.head(method.samples, Ledger()), cost, provenance)
        evaluator = evaluator.head(len(evaluator.samples), Ledger())
        schedules = GRIDS[method.name](evaluator.replay.layers, method.ladder)
        candidates = [Candidate(f"{method.name} {index}", method.name, s) for index, s in enumerate(schedules)]
        with self._bar(f"{method.name}: {len(candidates)} schedules", len(evaluator.samples)) as (bar, task):
            measured = measure(
                evaluator, cost, candidates, provenance,
                split=self.settings.data.search_split, advance=partial(bar.advance, task),
            )  # fmt: skip
        return self._best(method.name, candidates, [point for point, _ in measured], evaluator)

    def _sample(self, method: SampledMethod, evaluator: Evaluator, cost: FlopCost, provenance: Provenance) -> Found:
        settings = self.settings
        candidates: list[Candidate] = []
        points: list[Point] = []
        with self._bar(f"{method.name}: {method.trials} schedules", method.trials) as (bar, task):

            def measure_one(proposal: Proposal) -> tuple[float, float]:
                params = {**settings.selector.params, **proposal.knobs} if proposal.knobs else None
                name = f"{method.name} {len(candidates)}"
                candidates.append(Candidate(name, method.name, proposal.schedule, params=params))
                ((point, _),) = measure(evaluator, cost, candidates[-1:], provenance, split=settings.data.search_split)
                points.append(point)
                bar.advance(task)
                return point.costs[cost.name], point.quality["kl"]

            sample(
                method.name, measure_one, layers=evaluator.replay.layers, steps=settings.kernel.steps,
                knobs=check_knobs(evaluator.selector, method.tune), trials=method.trials, seed=settings.seed,
            )  # fmt: skip
        return self._best(method.name, candidates, points, evaluator)

    def _best(
        self, method: str, candidates: Sequence[Candidate], points: Sequence[Point], evaluator: Evaluator
    ) -> Found:
        """What is best for each budget, and the front, of candidates that were all measured."""
        by_name = {candidate.name: candidate for candidate in candidates}
        best, search_kl = {}, {}
        for budget in self.settings.budget.values:
            choice = best_at_cost(points, budget, quality="kl")
            if choice is not None:
                best[budget], search_kl[budget] = by_name[choice.name], choice.quality["kl"]
        front = [by_name[point.name] for point in pareto_front(points, quality="kl")]
        return Found(method, best, search_kl, front, list(points), evaluator.ledger.forwards)

    def _learn(self, method: LearnedMethod, evaluator: Evaluator, cost: FlopCost) -> Found:
        settings = self.settings
        kernel = make_kernel(settings.kernel.name, settings.kernel.steps)
        options = LearnedSettings(**method.model_dump(exclude={"name", "samples"}))
        with self._bar("learning", options.steps) as (bar, task):

            def show(step: Step) -> None:
                values = {"loss": step.loss, "violation": step.violation, "multiplier": step.multiplier}
                text = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
                bar.update(task, completed=step.step + 1, description=f"learning  {text}")
                self.tracker.log(values)

            search = LearnedSearch(
                evaluator, cost, kernel, settings.budget.values, options, seed=settings.seed, report=show
            )
            learned = search.run()
        best = {
            result.budget: Candidate(
                f"learned b={result.budget:g}",
                "learned",
                result.schedule,
                result.budget,
                {**settings.selector.params, **result.knobs} if result.knobs else None,
            )
            for result in learned
        }
        search_kl = {result.budget: result.kl for result in learned}
        return Found("learned", best, search_kl, list(best.values()), [], evaluator.ledger.forwards)

    def _fit(self, method: FitPruneMethod, evaluator: Evaluator, cost: FlopCost, provenance: Provenance) -> Found:
        budgets = self.settings.budget.values
        with self._bar(f"fitprune: {len(budgets)} budgets", len(budgets)) as (bar, task):
            search = FitPruneSearch(
                Calibration(evaluator), cost, budgets, bracket=method.bracket, report=partial(bar.advance, task)
            )
            fitted = search.run()
        best = {
            result.budget: Candidate(f"fitprune b={result.budget:g}", "fitprune", result.schedule, result.budget)
            for result in fitted
        }
        front = list(best.values())
        measured = measure(evaluator, cost, front, provenance, split=self.settings.data.search_split)
        points = [point for point, _ in measured]
        search_kl = {budget: point.quality["kl"] for budget, point in zip(best, points, strict=True)}
        return Found("fitprune", best, search_kl, front, points, evaluator.ledger.forwards)

    def _withdraw(
        self, method: WithdrawalMethod, evaluator: Evaluator, cost: FlopCost, provenance: Provenance
    ) -> Found:
        schedules = withdrawal_schedules(evaluator.replay.layers, method.first)
        candidates = [Candidate(f"vtw layer {layer}", "vtw", schedule) for layer, schedule in schedules.items()]
        measured = measure(evaluator, cost, candidates, provenance, split=self.settings.data.search_split)
        points = {layer: point for layer, (point, _) in zip(schedules, measured, strict=True)}
        chosen = choose_layers({layer: point.quality["kl"] for layer, point in points.items()}, method.eta)
        found = self._best("vtw", candidates, [points[layer] for layer in sorted(set(chosen.values()))], evaluator)
        found.points = list(points.values())
        return found

    # --- verifying ---------------------------------------------------------------------------------------------------

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
        with self._optional("downsampled"):
            split = self.settings.data.report_split
            for point, quality in measure_downsampled(
                report, FACTORS, provenance, split=split, cost=self.settings.cost.name
            ):
                measured[point.name] = (point, quality)
        return measured

    def _measure_on(
        self, report: Evaluator, candidates: Sequence[Candidate], provenance: Provenance
    ) -> dict[str, Measured]:
        """Points of the report split by name, under one selector."""
        cost, split = report.cost(self.settings.cost.name), self.settings.data.report_split
        title = f"{split} split: {len(candidates)} schedules, {report.selector_name}"
        with self._bar(title, len(report.samples)) as (bar, task):
            found = measure(report, cost, candidates, provenance, split=split, advance=partial(bar.advance, task))
        return {point.name: (point, quality) for point, quality in found}

    @contextmanager
    def _optional(self, control: str) -> Iterator[None]:
        """Say that a control is missing, and why, where the model does not allow it."""
        try:
            yield
        except ModelError as error:
            self.console.print(f"control {control} is missing: {error}", highlight=False)

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

    @contextmanager
    def _bar(self, title: str, total: int = 1) -> Iterator[tuple[Progress, TaskID]]:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, disable=not self.settings.progress) as bar:
            task = bar.add_task(title, total=total)
            yield bar, task
            bar.update(task, completed=total)
