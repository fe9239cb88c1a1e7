"""Polish after a search: local moves of schedules, measured on the samples that were searched with.

A neighbour of a schedule for a budget changes one thing about its cuts and is brought exactly onto the budget again by
:func:`vispco.search.space.fit_to_budget`:

- *shift*: a cut one layer earlier or later;
- *balance*: the ratio of one segment times or divided by a factor, so that others make up for it;
- *merge*: one cut less, its segment joins the one before;
- *split*: one cut more, at any other layer, to the geometric mean of the ratios around it;
- *adopt*: the cuts and proportions of the schedule for the next tighter or looser budget.

In a round, all neighbours of all budgets are measured together, on few samples first, and the better part of each
budget's on more. All see the same samples, so that differences are paired. A neighbour takes over where::

    mean(loss_old - loss_new) > errors * standard deviation(loss_old - loss_new) / sqrt(samples)

which is positive, so on these samples no schedule gets worse. The best of many neighbours looks better than it is: what
is gained on other samples is less.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from vispco.cost import Cost
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator
from vispco.search.space import Schedule, fit_to_budget

Cuts = list[tuple[int, float]]
"""Layers of cuts, rising, and the ratios that they leave, falling."""

Loss = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From KL of samples to what is minimised, both of shape (samples,)."""


def bounded(kl: NDArray[np.float64]) -> NDArray[np.float64]:
    """``1 - exp(-KL)``: a sample that is lost altogether counts 1, and not the more the worse it is."""
    return -np.expm1(-kl)


@dataclass(frozen=True)
class Polished:
    """What polishing came to.

    Attributes
    ----------
    schedules : dict of float to tuple of float
        By budget.
    before, after : dict of float to float
        Mean loss by budget on the samples that were used.
    accepted, tried : int
        Moves made, and neighbours measured.
    """

    schedules: dict[float, Schedule]
    before: dict[float, float]
    after: dict[float, float]
    accepted: int
    tried: int


def cuts_of(schedule: Schedule) -> Cuts:
    """Where a schedule falls, and to what."""
    return [(layer, ratio) for layer, ratio in enumerate(schedule) if layer and ratio < schedule[layer - 1]]


def with_cuts(cuts: Cuts, layers: int) -> Schedule:
    """The schedule that falls there."""
    edges = [(0, 1.0), *cuts, (layers, 0.0)]
    return tuple(ratio for (layer, ratio), (end, _) in pairwise(edges) for _ in range(layer, end))


def moved_cuts(cuts: Cuts, layers: int, factor: float) -> Iterator[Cuts]:
    """Cuts after one move, each move once; ``factor`` is that of *balance*."""
    edges = [(0, 1.0), *cuts, (layers, 0.0)]
    for place, (layer, ratio) in enumerate(cuts):
        (before, above), (after, below) = edges[place], edges[place + 2]
        for other in (layer - 1, layer + 1):
            if before < other < after:
                yield [*cuts[:place], (other, ratio), *cuts[place + 1 :]]
        if len(cuts) > 1:
            yield [*cuts[:place], *cuts[place + 1 :]]
            if place or len(cuts) > 2:  # with two cuts, one moves against the other either way
                for other_ratio in (ratio * factor, ratio / factor):
                    if below < other_ratio < above:
                        yield [*cuts[:place], (layer, other_ratio), *cuts[place + 1 :]]
    for place, ((start, ratio), (end, below)) in enumerate(pairwise(edges)):
        for layer in range(start + 1, end):
            yield [*cuts[:place], (layer, math.sqrt(ratio * (below or ratio / 4))), *cuts[place:]]


def neighbours(
    schedule: Schedule, others: Sequence[Schedule], cost: Cost, budget: float, factor: float
) -> list[Schedule]:
    """Schedules within a budget that differ from one by a move, or take over the cuts of another.

    Parameters
    ----------
    schedule : tuple of float
    others : sequence of schedules
        Those of the next budgets.
    cost : Cost
    budget, factor : float
    """
    layers = len(schedule)
    moved = [with_cuts(cuts, layers) for cuts in moved_cuts(cuts_of(schedule), layers, factor)]
    found: dict[Schedule, None] = {}
    for candidate in (*moved, *others):
        try:
            fitted = fit_to_budget(candidate, cost, budget)
        except ConfigError:  # it cuts too late
            continue
        if fitted != schedule:
            found[fitted] = None
    return list(found)


class _Bench:
    """Loss of schedules, sample by sample, on random samples that are added in stages; nothing is measured twice.

    Parameters
    ----------
    evaluator : Evaluator
    loss : callable
    sizes : sequence of int
        Samples after each stage, rising.
    seed : int
    """

    def __init__(self, evaluator: Evaluator, loss: Loss, sizes: Sequence[int], seed: int):
        self._loss = loss
        order = np.random.default_rng(seed).permutation(len(evaluator.samples))
        starts = [0, *sizes[:-1]]
        self.parts = [_only(evaluator, order[start:end]) for start, end in zip(starts, sizes, strict=True)]
        self.known: dict[Schedule, list[NDArray[np.float64]]] = {}

    def measure(self, schedules: Sequence[Schedule], stage: int) -> None:
        """Measure what is not known yet, up to a stage."""
        for place, part in enumerate(self.parts[: stage + 1]):
            missing = [s for s in dict.fromkeys(schedules) if len(self.known.setdefault(s, [])) == place]
            if missing:
                for schedule, quality in zip(missing, part.evaluate(missing), strict=True):
                    self.known[schedule].append(self._loss(quality.kl))

    def loss(self, schedule: Schedule, stage: int) -> NDArray[np.float64]:
        """Loss of the samples up to a stage."""
        return np.concatenate(self.known[schedule][: stage + 1])

    def gain(self, old: Schedule, new: Schedule) -> tuple[float, float]:
        """By how much the loss of ``new`` is lower in the mean over all samples, and the standard error of that."""
        less = self.loss(old, len(self.parts)) - self.loss(new, len(self.parts))
        return float(less.mean()), float(less.std(ddof=1) / math.sqrt(len(less)))


def _only(evaluator: Evaluator, chosen: NDArray[np.int64]) -> Evaluator:
    """An evaluator of some of the samples, whose unpruned answers are paid for; same ledger."""
    other = copy.copy(evaluator)
    other.samples = [evaluator.samples[index] for index in sorted(chosen.tolist())]
    other.batches, start = [], 0
    for batch in evaluator.batches:
        own = [index - start for index in sorted(chosen.tolist()) if start <= index < start + len(batch.rows)]
        start += len(batch.rows)
        if own:
            other.batches.append(batch.select(torch.tensor(own)))
    return other


def polish(
    schedules: Mapping[float, Schedule],
    evaluator: Evaluator,
    cost: Cost,
    *,
    loss: Loss = bounded,
    rounds: int = 3,
    samples: int = 250,
    first: int = 16,
    growth: int = 4,
    factor: float = 1.5,
    errors: float = 1.0,
    seed: int = 0,
) -> Polished:
    """Better schedules near given ones.

    Parameters
    ----------
    schedules : mapping of float to tuple of float
        By budget, each within it.
    evaluator : Evaluator
        Its ledger is charged with what is measured.
    cost : Cost
    loss : callable
        Of a sample's KL; bounded by default.
    rounds : int
        What was measured in one is not measured again in the next.
    samples : int
        That decide; drawn once from those of the evaluator.
    first, growth : int
        Samples of the first stage of a round, and by what their number grows from stage to stage, while the number of
        a budget's neighbours shrinks by as much.
    factor : float
        Of *balance*; its root in the next round.
    errors : float
        Standard errors that a gain has to exceed.
    seed : int
        Draws the samples.

    Raises
    ------
    ConfigError
        If a schedule is above its budget, or there are fewer than two samples.
    """
    for budget, schedule in schedules.items():
        if not cost.fits(schedule, budget):
            raise ConfigError(f"schedule {list(schedule)} costs more than its budget {budget:g}; fit it to the budget")
    samples = min(samples, len(evaluator.samples))
    if samples < 2:
        raise ConfigError(f"polish_samples = {samples} is too few to tell a gain from chance; give 2 or more")
    sizes = []
    while first < samples:
        sizes.append(first)
        first *= growth
    sizes.append(samples)
    bench, last = _Bench(evaluator, loss, sizes, seed), len(sizes) - 1
    budgets = sorted(schedules)
    now = {budget: schedules[budget] for budget in budgets}
    bench.measure(list(now.values()), last)
    before = {budget: float(bench.loss(now[budget], last).mean()) for budget in budgets}
    accepted, seen = 0, set(now.values())
    for _ in range(rounds):
        pools = {}
        for place, budget in enumerate(budgets):
            others = [now[other] for other in (*budgets[:place][-1:], *budgets[place + 1 :][:1])]
            pools[budget] = neighbours(now[budget], others, cost, budget, factor)
        seen.update(*pools.values())
        for stage in range(len(sizes)):
            bench.measure([schedule for pool in pools.values() for schedule in pool], stage)
            for pool in pools.values():
                pool.sort(key=lambda schedule: bench.loss(schedule, stage).mean())
                del pool[math.ceil(len(pool) / growth) if stage < last else 1 :]
        for budget, pool in pools.items():
            gain, error = bench.gain(now[budget], pool[0]) if pool else (0.0, 0.0)
            if gain > errors * error:
                now[budget] = pool[0]
                accepted += 1
        factor = math.sqrt(factor)
    after = {budget: float(bench.loss(now[budget], last).mean()) for budget in budgets}
    return Polished(now, before, after, accepted, len(seen) - len(set(schedules.values())))
