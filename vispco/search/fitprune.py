"""FitPrune's schedules: every layer deletes what its attention can spare (Ye et al., AAAI 2025, arXiv 2409.10197).

For a tolerance ``a`` the calibration samples walk through the layers together. After layer l each one deletes the
tokens that :func:`vispco.selectors.fitprune.fit_deletions` finds in its attention, held against the same layer of the
unpruned run, and goes on without them. Samples may delete different numbers; the schedule has their mean ``t_l``,
rounded down, with ``N_i`` visual tokens in sample i and N in the largest::

    t_l = floor(N mean_i(deleted_il / N_i))        c_0 = N, c_{l+1} = c_l - t_l        r_l = c_l / N

The walk stops before the first layer at which this schedule, going on without another deletion, is within the budget.
The least tolerance that gets there is found by bisection. What differs from the paper or its authors' code:

- The budget limits exact FLOPs of the rounded schedule, text tokens and selection included. The paper projects the cost
  of visual tokens alone, sample by sample and before rounding, so that a schedule may miss its target.
- Tokens leave before the next layer, not inside the layer whose attention chose them.
- The schedule is that of the least tolerance that reached the budget. The code prints the one that it tried last.
- A layer that can spare an image altogether leaves it the token that the selector ranks first. The code has no such
  case, and where one mass can be spared as a whole it takes the number of tokens from the layer before.
- A deletion is often larger than the budget asks for, and rounding takes some back. The rest of the budget is filled
  with :func:`vispco.search.space.fit_to_budget`, which leaves the cuts where they are.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vispco.cost import Cost
from vispco.engine import observed_attention
from vispco.engine.prefill import Prefill
from vispco.evaluation import Evaluator
from vispco.schedule import SNAP
from vispco.search.space import Schedule, fit_to_budget
from vispco.selectors import Choice, SelectorInputs
from vispco.selectors.fitprune import fit_deletions, schedule


class Calibration:
    """Walks of the calibration samples.

    Use inside ``with observed_attention(family), torch.no_grad()``.

    Parameters
    ----------
    evaluator : Evaluator
        On the calibration samples; its ledger is charged. The masses that are read do not depend on its selector.
    """

    def __init__(self, evaluator: Evaluator):
        self.evaluator = evaluator.share("fitprune")
        self.layers = evaluator.replay.layers
        self.totals = [batch.captured.visual_tokens.cpu() for batch in evaluator.batches]
        self.samples = max(1, sum(int((totals > 0).sum()) for totals in self.totals))
        self.tokens = max(1, *(int(totals.max()) for totals in self.totals))
        """Visual tokens of the largest sample, which deletions are scaled to."""
        self._references: dict[tuple[int, int], list[Tensor]] = {}

    def deletions(self, tolerance: float) -> Iterator[int]:
        """Mean tokens that layers delete, rounded down, one layer after the other; all layers but the last."""
        if not self._references:
            for place, _, inputs in self._pass({}):
                self._references[place] = [mass.where(inputs.valid, 0.0).sum(dim=1) for mass in _masses(inputs)]
        choices: dict[int, Choice] = {}
        removed = 0.0
        for (layer, index), state, inputs in self._pass(choices):
            gone = fit_deletions(*_masses(inputs), inputs.valid, tolerance, *self._references[layer, index])
            choices[index] = Choice(_spare_images(gone, state, inputs))
            less = state.counts - choices[index].kept.sum(dim=1).cpu()
            removed += float((less.double() / self.totals[index].clamp(min=1)).sum())
            if index == len(self.totals) - 1:
                yield math.floor(removed / self.samples * self.tokens + SNAP)
                removed = 0.0

    def _pass(self, choices: dict[int, Choice]) -> Iterator[tuple[tuple[int, int], Prefill, SelectorInputs]]:
        """What the attention of every layer and batch shows; ``choices`` of a batch hold from its next layer on."""
        replay, batches = self.evaluator.replay, self.evaluator.batches
        states = [(replay.start(batch.captured), batch.captured.hidden) for batch in batches]
        for layer in range(self.layers - 1):  # what the last layer deletes would save nothing
            for index, batch in enumerate(batches):
                (state, hidden), arguments, choice = states[index], batch.captured.arguments, choices.get(index)
                counts = state.counts if choice is None else choice.kept.sum(dim=1).cpu()
                state, hidden = state.enter(layer, counts, hidden, arguments[layer], choice)
                hidden = replay.layer(layer, hidden, state, batch.captured)
                self.evaluator.charge_layer(batch, counts)
                states[index] = state, hidden
                yield (layer, index), state, state.inputs(layer + 1, hidden, arguments[layer + 1])


def _masses(inputs: SelectorInputs) -> tuple[Tensor, Tensor]:
    assert inputs.self_mass is not None
    assert inputs.cross_mass is not None
    return inputs.self_mass, inputs.cross_mass


def _spare_images(gone: Tensor, state: Prefill, inputs: SelectorInputs) -> Tensor:
    """Tokens that stay, shape (batch, visual), bool: those that do not go, or else an image's best one."""
    assert inputs.places is not None
    kept = state.alive & ~torch.zeros_like(state.alive).scatter(1, inputs.places, gone)
    left = torch.zeros_like(state.images).scatter_add(1, state.images, kept.long()).gather(1, state.images)
    best = state.ranks(inputs) < state.floor.to(kept.device)[:, None]  # of every image, which ranks put first
    return kept | (state.alive & best & (left == 0))


@dataclass(frozen=True)
class Fitted:
    """The schedule for one budget.

    Attributes
    ----------
    budget : float
    tolerance : float
        Share of the attention that its layers may lose.
    raw : tuple of float
        Where the walk stopped.
    schedule : tuple of float
        The same with the rest of the budget filled.
    """

    budget: float
    tolerance: float
    raw: Schedule
    schedule: Schedule


class FitPruneSearch:
    """See the module's description.

    Parameters
    ----------
    calibration : Calibration
    cost : Cost
    budgets : sequence of float
    bracket : float
        Width in tolerance at which the bisection ends.
    report : callable or None
        Called with 1 after every budget.
    """

    def __init__(
        self,
        calibration: Calibration,
        cost: Cost,
        budgets: Sequence[float],
        *,
        bracket: float = 0.01,
        report: Callable[[int], None] | None = None,
    ):
        self.calibration, self.cost, self.budgets = calibration, cost, sorted(budgets)
        self.bracket, self.report = bracket, report
        self._walks: dict[float, list[tuple[float, Schedule]]] = {}

    def run(self) -> list[Fitted]:
        """Schedules for all budgets, rising.

        Raises
        ------
        ConfigError
            If a budget is below the cost of a single token per image after the first layer.
        """
        found: list[Fitted] = []
        with observed_attention(self.calibration.evaluator.replay.family), torch.no_grad():
            for budget in self.budgets:
                fitted = self.fit(budget)
                if found and sum(found[-1].schedule) > sum(fitted.schedule):  # both are within this budget
                    fitted = replace(found[-1], budget=budget)
                found.append(fitted)
                if self.report:
                    self.report(1)
        return found

    def fit(self, budget: float) -> Fitted:
        """The schedule of the least tolerance whose walk comes within a budget."""
        low, high = 0.0, 1.0
        raw = self._reach(high, budget) or self._walk(high)[-1][1]
        while high - low > self.bracket:
            middle = (low + high) / 2
            if reached := self._reach(middle, budget):
                high, raw = middle, reached
            else:
                low = middle
        return Fitted(budget, high, raw, fit_to_budget(raw, self.cost, budget))

    def _reach(self, tolerance: float, budget: float) -> Schedule | None:
        """Where a walk comes within a budget."""
        return next((keep for cost, keep in self._walk(tolerance) if cost <= budget), None)

    def _walk(self, tolerance: float) -> list[tuple[float, Schedule]]:
        """Cost and schedule before any deletion and after each, until the least budget; one walk serves all budgets."""
        if tolerance not in self._walks:
            deletions = [0] * self.calibration.layers
            walk = [(1.0, (1.0,) * self.calibration.layers)]
            for layer, gone in enumerate(self.calibration.deletions(tolerance)):
                deletions[layer] = gone
                keep = schedule(deletions, self.calibration.tokens)
                walk.append((self.cost.exact(keep), keep))
                if walk[-1][0] <= self.budgets[0]:
                    break
            self._walks[tolerance] = walk
        return self._walks[tolerance]
