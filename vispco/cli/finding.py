"""Every search method from settings to what it found on the search split."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vispco.cost import FlopCost
from vispco.evaluation import Candidate, Evaluator, Ledger, Provenance, measure
from vispco.frontier import Point, best_at_cost, pareto_front
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
    check_knobs,
    choose_layers,
    sample,
    withdrawal_schedules,
)
from vispco.search import Progress as Step

Method = LearnedMethod | GridMethod | SampledMethod | FitPruneMethod | WithdrawalMethod


@contextmanager
def progress_bar(title: str, total: int = 1, *, console: Console, shown: bool) -> Iterator[tuple[Progress, TaskID]]:
    """A bar that is full at the end of the block."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(title, total=total)
        yield bar, task
        bar.update(task, completed=total)


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


class Finder:
    """Runs search methods on one split.

    Parameters
    ----------
    settings : RunSettings
    tracker : Tracker
        Gets loss, violation and multiplier of every learning step.
    bar : callable
        Makes a progress bar from a title and a total.
    cost : FlopCost
    provenance : Provenance
    """

    def __init__(
        self,
        settings: RunSettings,
        tracker: Tracker,
        bar: Callable[..., AbstractContextManager[tuple[Progress, TaskID]]],
        cost: FlopCost,
        provenance: Provenance,
    ):
        self.settings, self.tracker, self.bar = settings, tracker, bar
        self.cost, self.provenance, self.split = cost, provenance, settings.data.search_split

    def find(self, method: Method, evaluator: Evaluator) -> Found:
        """What a method finds, charged to a ledger of its own."""
        if isinstance(method, GridMethod):
            return self._enumerate(method, evaluator.head(len(evaluator.samples), Ledger()))
        evaluator = evaluator.head(method.samples, Ledger())
        if isinstance(method, LearnedMethod):
            return self._learn(method, evaluator)
        if isinstance(method, SampledMethod):
            return self._sample(method, evaluator)
        if isinstance(method, FitPruneMethod):
            return self._fit(method, evaluator)
        return self._withdraw(method, evaluator)

    def _enumerate(self, method: GridMethod, evaluator: Evaluator) -> Found:
        schedules = GRIDS[method.name](evaluator.replay.layers, method.ladder)
        candidates = [Candidate(f"{method.name} {index}", method.name, s) for index, s in enumerate(schedules)]
        with self.bar(f"{method.name}: {len(candidates)} schedules", len(evaluator.samples)) as (bar, task):
            measured = self._measure(evaluator, candidates, partial(bar.advance, task))
        return self._best(method.name, candidates, measured, evaluator)

    def _sample(self, method: SampledMethod, evaluator: Evaluator) -> Found:
        settings = self.settings
        candidates: list[Candidate] = []
        points: list[Point] = []
        with self.bar(f"{method.name}: {method.trials} schedules", method.trials) as (bar, task):

            def measure_one(proposal: Proposal) -> tuple[float, float]:
                params = {**settings.selector.params, **proposal.knobs} if proposal.knobs else None
                name = f"{method.name} {len(candidates)}"
                candidates.append(Candidate(name, method.name, proposal.schedule, params=params))
                (point,) = self._measure(evaluator, candidates[-1:])
                points.append(point)
                bar.advance(task)
                return point.costs[self.cost.name], point.quality["kl"]

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

    def _learn(self, method: LearnedMethod, evaluator: Evaluator) -> Found:
        settings = self.settings
        kernel = make_kernel(settings.kernel.name, settings.kernel.steps)
        options = LearnedSettings(**method.model_dump(exclude={"name", "samples"}))
        with self.bar("learning", options.steps) as (bar, task):

            def show(step: Step) -> None:
                values = {"loss": step.loss, "violation": step.violation, "multiplier": step.multiplier}
                text = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
                bar.update(task, completed=step.step + 1, description=f"learning  {text}")
                self.tracker.log(values)

            search = LearnedSearch(
                evaluator, self.cost, kernel, settings.budget.values, options, seed=settings.seed, report=show
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

    def _fit(self, method: FitPruneMethod, evaluator: Evaluator) -> Found:
        budgets = self.settings.budget.values
        with self.bar(f"fitprune: {len(budgets)} budgets", len(budgets)) as (bar, task):
            search = FitPruneSearch(
                Calibration(evaluator), self.cost, budgets, bracket=method.bracket, report=partial(bar.advance, task)
            )
            fitted = search.run()
        best = {
            result.budget: Candidate(f"fitprune b={result.budget:g}", "fitprune", result.schedule, result.budget)
            for result in fitted
        }
        front = list(best.values())
        points = self._measure(evaluator, front)
        search_kl = {budget: point.quality["kl"] for budget, point in zip(best, points, strict=True)}
        return Found("fitprune", best, search_kl, front, points, evaluator.ledger.forwards)

    def _withdraw(self, method: WithdrawalMethod, evaluator: Evaluator) -> Found:
        schedules = withdrawal_schedules(evaluator.replay.layers, method.first)
        candidates = [Candidate(f"vtw layer {layer}", "vtw", schedule) for layer, schedule in schedules.items()]
        points = dict(zip(schedules, self._measure(evaluator, candidates), strict=True))
        chosen = choose_layers({layer: point.quality["kl"] for layer, point in points.items()}, method.eta)
        found = self._best("vtw", candidates, [points[layer] for layer in sorted(set(chosen.values()))], evaluator)
        found.points = list(points.values())
        return found

    def _measure(
        self, evaluator: Evaluator, candidates: Sequence[Candidate], advance: Callable[[float], None] | None = None
    ) -> list[Point]:
        """Points of the search split."""
        found = measure(evaluator, self.cost, candidates, self.provenance, split=self.split, advance=advance)
        return [point for point, _ in found]
