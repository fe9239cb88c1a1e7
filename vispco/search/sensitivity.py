"""Sensitivity and an integer program, in the manner of ModelOpt's ``auto_quantize``.

ModelOpt scores every layer with every candidate format, each alone, and picks one format per layer by an integer
program: the least sum of scores within the budget. Another budget solves again from the same scores.

Here a candidate is the share of the tokens still there that survives at the input of layer l. What is measured is a
single cut, everything before layer l and a share q from there on: ``D_l(q)`` is its mean KL to the unpruned model,
interpolated over log q between the rungs of a ladder, ``D_l(1) = 0``. Scores of layers are independent and add up::

    minimise sum over l of D_l(r_l / r_{l-1})          r_0 = 1, r_l on the ladder, non-increasing, cost(r) <= budget

The sum is the KL that was measured for a schedule with one cut. For several it is a prediction: later cuts rank tokens
that are fewer and have seen less. Counting increments instead, ``D_l(r_l) - D_l(r_{l-1})``, would forget that a cut
does harm whatever its size, and ask for many small ones.

The cost is exact, selection included, and is a sum over cuts too: with C the cost of a whole schedule, a cut at layer l
from ratio a to b changes it by ::

    d_l(a, b) = C(1, a, ..., a, b, ..., b) - C(1, a, ..., a)          b from layer l on, to the end

wherever a cost is a sum over layers of what the layer's count costs and over cuts of what choosing costs.

The program is solved exactly by dynamic programming over (layer, ratio). A partial schedule is a label: its cost and
score if nothing is cut from there on. What later layers add to either depends on the ratio that they start from and on
nothing else. So of two labels at the same layer and ratio, one that is no cheaper and scores no less leads to no
solution that the other does not lead to as well, and is dropped. What is left at the last layer is the whole front of
cost against score, from which every budget is read off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vispco.cost import Cost
from vispco.errors import BudgetError, ConfigError
from vispco.search.space import Schedule, check_ladder, fit_to_budget, step_schedules

UNIT = 1e-12
"""Costs and scores are compared in whole multiples of this, so that the order of a sum does not decide."""


@dataclass(frozen=True)
class Assigned:
    """The solution for one budget.

    Attributes
    ----------
    budget : float
    score : float
        Predicted KL of ``raw``.
    raw : tuple of float
        The schedule on the ladder.
    schedule : tuple of float
        The same with the rest of the budget filled, by :func:`vispco.search.space.fit_to_budget`.
    """

    budget: float
    score: float
    raw: Schedule
    schedule: Schedule


@dataclass(frozen=True)
class _Labels:
    """Partial schedules at one layer and ratio, none of which another one makes needless.

    Attributes
    ----------
    cost, score : ndarray, shape (labels,), int64
        In multiples of :data:`UNIT`; cost rises, score falls.
    level, parent : ndarray, shape (labels,), int64
        Place on the ladder at the layer before, and label there.
    """

    cost: NDArray[np.int64]
    score: NDArray[np.int64]
    level: NDArray[np.int64]
    parent: NDArray[np.int64]


class CutProgram:
    """Costs of all cuts on a ladder, and the program over them.

    Parameters
    ----------
    cost : Cost
    layers : int
    ladder : sequence of float
        Candidate ratios; 1 is always among them.

    Raises
    ------
    ConfigError
        If a ratio is not in (0, 1], or none is below 1.
    """

    def __init__(self, cost: Cost, layers: int, ladder: Sequence[float]):
        self.cost, self.layers = cost, layers
        self.levels = check_ladder([1.0, *check_ladder(ladder)])
        """Ratios, falling, from 1 on."""
        if len(self.levels) == 1:
            raise ConfigError(f"ladder {list(ladder)} needs a ratio below 1; there is nothing to choose otherwise")
        self.cuts = step_schedules(layers, self.levels)
        """Single cuts whose KL is asked for, layer by layer, ratios falling."""
        self.changes = self._price_cuts()
        self.unpruned = round(cost.exact((1.0,) * layers) / UNIT)
        self.least = cost.exact(Front(self, *self._solve(np.zeros_like(self.changes)))[0][2])
        """What the cheapest schedule on the ladder costs."""

    def _price_cuts(self) -> NDArray[np.int64]:
        """``d_l(a, b)`` in multiples of :data:`UNIT`; shape (layers, ratios, ratios), zero where nothing is cut."""
        number = len(self.levels)
        changes = np.zeros((self.layers, number, number), dtype=np.int64)
        for before, ratio in enumerate(self.levels):
            whole = self.cost.exact(self._cut(1, ratio, ratio))
            for layer in range(1 if before == 0 else 2, self.layers):
                for after in range(before + 1, number):
                    spent = self.cost.exact(self._cut(layer, ratio, self.levels[after]))
                    changes[layer, before, after] = round((spent - whole) / UNIT)
        return changes

    def _cut(self, layer: int, before: float, after: float) -> Schedule:
        return (1.0, *[before] * (layer - 1), *[after] * (self.layers - layer))

    def check_budgets(self, budgets: Sequence[float]) -> None:
        """Refuse what no schedule on the ladder can meet.

        Raises
        ------
        BudgetError
            With the least cost that can be reached.
        """
        if min(budgets) < self.least:
            raise BudgetError(
                f"budget {min(budgets):g} is below {self.least:.4f}, the least that ladder {list(self.levels)} can "
                "reach; raise the budget or give the ladder a smaller ratio"
            )

    def solve(self, kl: Sequence[float]) -> "Front":
        """The solutions for all budgets.

        Parameters
        ----------
        kl : sequence of float
            Mean KL of :attr:`cuts`, in their order.
        """
        number = len(self.levels)
        table = np.asarray(kl, dtype=np.float64).reshape(self.layers - 1, number - 1)
        logs = np.log(self.levels)
        scores = np.zeros_like(self.changes)
        for layer, harms in enumerate(table, start=1):
            known = [*harms[::-1], 0.0]
            shares = np.minimum(0.0, logs[None, :] - logs[:, None])  # not to a larger ratio
            scores[layer] = np.rint(np.interp(shares, logs[::-1], known) / UNIT)
        return Front(self, *self._solve(scores))

    def _solve(self, scores: NDArray[np.int64]) -> tuple[_Labels, list[list[_Labels]]]:
        """The front at the last layer, its levels being of that layer, and all labels before it.

        Parameters
        ----------
        scores : ndarray, shape (layers, ratios, ratios), int64
        """
        number = len(self.levels)
        none = np.zeros(0, dtype=np.int64)
        start = _Labels(np.array([self.unpruned]), *np.zeros((3, 1), dtype=np.int64))
        history = [[start, *[_Labels(none, none, none, none)] * (number - 1)]]
        for layer in range(1, self.layers):
            before = history[-1]
            history.append(
                [
                    _merge(
                        before[: after + 1], self.changes[layer, : after + 1, after], scores[layer, : after + 1, after]
                    )
                    for after in range(number)
                ]
            )
        nothing = np.zeros(number, dtype=np.int64)
        return _merge(history[-1], nothing, nothing), history


def _merge(labels: Sequence[_Labels], changes: NDArray[np.int64], scores: NDArray[np.int64]) -> _Labels:
    """Labels of several ratios after going to one, without those that are needless.

    Of equal ones that of the largest ratio stays.
    """
    sizes = [len(each.cost) for each in labels]
    cost = np.concatenate([each.cost + change for each, change in zip(labels, changes, strict=True)])
    score = np.concatenate([each.score + more for each, more in zip(labels, scores, strict=True)])
    level = np.repeat(np.arange(len(labels)), sizes)
    parent = np.concatenate([np.arange(size) for size in sizes])
    order = np.lexsort((score, cost))  # stable
    least = np.minimum.accumulate(score[order])
    better = np.ones(len(order), dtype=bool)
    better[1:] = least[1:] < least[:-1]
    kept = order[better]
    return _Labels(cost[kept], score[kept], level[kept], parent[kept])


class Front:
    """Every schedule on the ladder that is best within some budget.

    Parameters
    ----------
    program : CutProgram
    last : _Labels
        At the last layer.
    history : list of list of _Labels
        By layer and ratio.
    """

    def __init__(self, program: CutProgram, last: _Labels, history: list[list[_Labels]]):
        self.program, self.last, self.history = program, last, history

    def __len__(self) -> int:
        """Number of schedules."""
        return len(self.last.cost)

    def __getitem__(self, place: int) -> tuple[float, float, Schedule]:
        """Cost, score and schedule; costs rise with the place, scores fall."""
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        level, label = int(self.last.level[place]), int(self.last.parent[place])
        ratios = []
        for layer in reversed(self.history):
            ratios.append(self.program.levels[level])
            level, label = int(layer[level].level[label]), int(layer[level].parent[label])
        return float(self.last.cost[place] * UNIT), float(self.last.score[place] * UNIT), tuple(reversed(ratios))

    def at(self, budget: float) -> Assigned:
        """The solution within a budget; of equal scores the cheapest.

        Limits on other costs are held by going down the front until they are, so what is found under them is good and
        legal, but need not be the best.

        Raises
        ------
        BudgetError
            If no schedule on the ladder is within it.
        """
        self.program.check_budgets([budget])
        cost = self.program.cost
        place = int(np.searchsorted(self.last.cost, budget / UNIT + self.program.layers, side="right")) - 1
        # What is above the budget is so by less than the units can tell; limits on other costs may be far exceeded.
        while place > 0 and not cost.fits(self[place][2], budget):
            place -= 1
        best = self.last.score[place] + self.program.layers  # equal but for the rounding of every layer's score
        equal = range(int(np.searchsorted(-self.last.score, -best)), place)
        place = next((other for other in equal if cost.fits(self[other][2], budget)), place)
        _, score, raw = self[place]
        return Assigned(budget, score, raw, fit_to_budget(raw, cost, budget))
