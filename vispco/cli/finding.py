"""Every search method from settings to what it found on the search split."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vispco.cli.sampling import candidate, identity, knobs_of, storage_of
from vispco.cost import Cost
from vispco.evaluation import ANSWER_TOKENS, Candidate, Evaluator, Ledger, Provenance, measure
from vispco.frontier import Point, best_at_cost, pareto_front
from vispco.kernels import make_kernel
from vispco.runs import RunSettings, Tracker
from vispco.runs.settings import (
    AutoPruneMethod,
    FitPruneMethod,
    GridMethod,
    LearnedMethod,
    SampledMethod,
    SensitivityMethod,
    WithdrawalMethod,
)
from vispco.search import (
    GRIDS,
    Answers,
    Calibration,
    CutProgram,
    FitPruneSearch,
    LearnedSearch,
    LearnedSettings,
    Measured,
    Proposal,
    SampledSearch,
    Space,
    choose_layers,
    fit_curve,
    mean_information,
    retention,
    withdrawal_schedules,
    working,
)
from vispco.search import Progress as Step
from vispco.state import State

Method = (
    LearnedMethod | GridMethod | SampledMethod | FitPruneMethod | AutoPruneMethod | SensitivityMethod | WithdrawalMethod
)


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
    answers : Answers or None
        Schedules for any other budget.
    steps : list of Progress
        Loss, violation and multiplier of every gradient step.
    """

    method: str
    best: dict[float, Candidate]
    search_kl: dict[float, float]
    front: list[Candidate]
    points: list[Point]
    forwards: float
    answers: Answers | None = None
    steps: list[Step] = field(default_factory=list)


class Finder:
    """Runs search methods on one split.

    Parameters
    ----------
    settings : RunSettings
    tracker : Tracker
        Gets loss, violation and multiplier of every learning step.
    bar : callable
        Makes a progress bar from a title and a total.
    cost : Cost
        With its limits
    provenance : Provenance
    folder : Path
        Of the run.
    """

    def __init__(
        self,
        settings: RunSettings,
        tracker: Tracker,
        bar: Callable[..., AbstractContextManager[tuple[Progress, TaskID]]],
        cost: Cost,
        provenance: Provenance,
        folder: Path,
    ):
        self.settings, self.tracker, self.bar, self.folder = settings, tracker, bar, folder
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
        if isinstance(method, AutoPruneMethod):
            return self._curve(method, evaluator)
        if isinstance(method, SensitivityMethod):
            return self._assign(method, evaluator)
        return self._withdraw(method, evaluator)

    def _enumerate(self, method: GridMethod, evaluator: Evaluator) -> Found:
        schedules = GRIDS[method.name](evaluator.replay.layers, method.ladder)
        candidates = [Candidate(f"{method.name} {index}", method.name, s) for index, s in enumerate(schedules)]
        with self.bar(f"{method.name}: {len(candidates)} schedules", len(evaluator.samples)) as (bar, task):
            measured = self._measure(evaluator, candidates, partial(bar.advance, task))
        return self._best(method.name, candidates, measured, evaluator)

    def _sample(self, method: SampledMethod, evaluator: Evaluator) -> Found:
        settings, ledger, teaching = self.settings, evaluator.ledger, evaluator.ledger.forwards
        if method.storage is not None:
            evaluator.state = State()  # the study keeps the trials
        named = partial(candidate, settings, method)
        # One evaluator per selector: what it needs of the vision tower is then looked up once, not at every trial.
        evaluators = {evaluator.selector_name: evaluator}

        def measure_one(number: int, proposal: Proposal) -> Measured:
            if proposal.selector not in evaluators:
                evaluators[proposal.selector] = evaluator.share(proposal.selector)
            ledger.forwards = 0.0  # a difference would be rounded otherwise after a restart
            (point,) = self._measure(evaluators[proposal.selector], [named(number, proposal)])
            over = [point.costs[cost.name] - limit for cost, limit in self.cost.limits.items()]
            return Measured(
                point.costs[self.cost.name],
                point.quality["kl"],
                ledger.forwards,
                point.model_dump(mode="json"),
                tuple(over),
            )

        title = f"{method.name}: {method.trials} schedules"
        with working(method.storage), self.bar(title, method.trials) as (bar, task):
            search = SampledSearch(
                method.name, Space(evaluator.replay.layers, settings.kernel.steps, knobs_of(settings, method)),
                settings.budget.values, trials=method.trials, seed=settings.seed,
                storage=storage_of(method, self.folder), study=method.study or method.name,
                identity=identity(settings, method, evaluator.samples, self.provenance, self.cost),
                report=lambda done: bar.update(task, completed=done),
            )  # fmt: skip
            told = search.run(measure_one)
        candidates = [named(trial.number, trial.proposal) for trial in told]
        points = [Point.model_validate(trial.measured.record) for trial in told]
        found = self._best(method.name, candidates, points, evaluator)
        found.forwards = teaching + sum(trial.measured.forwards for trial in told)
        return found

    def _best(
        self, method: str, candidates: Sequence[Candidate], points: Sequence[Point], evaluator: Evaluator
    ) -> Found:
        """What is best for each budget, and the front, of candidates that were all measured."""
        by_name = {candidate.name: candidate for candidate in candidates}
        allowed = [point for point in points if self.cost.allows(point.costs)]
        best, search_kl = {}, {}
        for budget in self.settings.budget.values:
            choice = best_at_cost(allowed, budget, cost=self.cost.name, quality="kl")
            if choice is not None:
                best[budget], search_kl[budget] = by_name[choice.name], choice.quality["kl"]
        front = [by_name[point.name] for point in pareto_front(allowed, cost=self.cost.name, quality="kl")]
        return Found(method, best, search_kl, front, list(points), evaluator.ledger.forwards)

    def _learn(self, method: LearnedMethod, evaluator: Evaluator) -> Found:
        settings = self.settings
        kernel = make_kernel(settings.kernel.name, evaluator.replay.layers, settings.kernel.steps)
        options = LearnedSettings(**method.model_dump(exclude={"name", "samples"}))
        steps: list[Step] = []
        with self.bar("learning", options.steps) as (bar, task):

            def show(step: Step) -> None:
                steps.append(step)
                values = {"loss": step.loss, "violation": step.violation, "multiplier": step.multiplier}
                text = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
                bar.update(task, completed=step.step + 1, description=f"learning  {text}")
                self.tracker.log(step.step, values)

            search = LearnedSearch(
                evaluator, self.cost, kernel, settings.budget.values, options, seed=settings.seed, report=show
            )
            learned = search.run()
        front = {
            result.budget: Candidate(
                f"learned b={result.budget:g}",
                "learned",
                result.schedule,
                result.budget,
                {**settings.selector.params, **result.knobs} if result.knobs else None,
            )
            for result in learned
        }
        best = {budget: front[budget] for budget in settings.budget.values}
        search_kl = {result.budget: result.kl for result in learned}
        spent = evaluator.ledger.forwards
        return Found("learned", best, search_kl, list(front.values()), [], spent, search.answers, steps)

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
        return self._as_they_are("fitprune", best, evaluator)

    def _as_they_are(self, method: str, best: dict[float, Candidate], evaluator: Evaluator) -> Found:
        """One schedule per budget, all of which are worth verifying."""
        front = list(best.values())
        points = self._measure(evaluator, front)
        search_kl = {budget: point.quality["kl"] for budget, point in zip(best, points, strict=True)}
        return Found(method, best, search_kl, front, points, evaluator.ledger.forwards)

    def _curve(self, method: AutoPruneMethod, evaluator: Evaluator) -> Found:
        information = mean_information(evaluator)
        curve = retention(evaluator.replay.layers, information, x0=method.x0, k0=method.k0, gamma=method.gamma)
        best = {
            budget: Candidate(f"autoprune b={budget:g}", "autoprune", fit_curve(curve, self.cost, budget), budget)
            for budget in self.settings.budget.values
        }
        return self._as_they_are("autoprune", best, evaluator)

    def _assign(self, method: SensitivityMethod, evaluator: Evaluator) -> Found:
        budgets = self.settings.budget.values
        program = CutProgram(self.cost, evaluator.replay.layers, method.ladder)
        program.check_budgets(budgets)
        cuts = [Candidate(f"sensitivity {index}", "sensitivity", cut) for index, cut in enumerate(program.cuts)]
        with self.bar(f"sensitivity: {len(cuts)} cuts", len(evaluator.samples)) as (bar, task):
            points = self._measure(evaluator, cuts, partial(bar.advance, task))
        front = program.solve([point.quality["kl"] for point in points])
        chosen = [Candidate(f"sensitivity b={b:g}", "sensitivity", front.at(b).schedule, b) for b in budgets]
        points += self._measure(evaluator, chosen)
        return self._best("sensitivity", [*cuts, *chosen], points, evaluator)  # the single cuts are there to be chosen

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
        # While searching nothing is generated: what is read off teacher forcing is only the score if the task says so.
        metric = "score" if self.settings.data.scorer == ANSWER_TOKENS else ANSWER_TOKENS
        found = measure(evaluator, candidates, self.provenance, split=self.split, metric=metric, advance=advance)
        return [point for point, _ in found]
