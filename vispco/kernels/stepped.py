"""What kernels that cut at a few layers share: the nearest schedule with few cuts, and starts over all of them."""

import random
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise, product
from math import comb, inf

import torch
from torch import Tensor

from vispco.errors import ConfigError
from vispco.kernels.base import MOST_STARTS, Kernel, logit

Cuts = tuple[tuple[int, ...], tuple[float, ...]]
"""Layers that a schedule falls at, in rising order, and the ratios that it falls to."""


class Stepped(Kernel):
    """Kernel of the schedules with at most ``steps`` cuts, each at one of the layers ``places``.

    Raises
    ------
    ConfigError
        If there are more steps than layers to cut at.
    """

    def __init__(
        self,
        layers: int,
        steps: int,
        places: Sequence[int],
        rates: Sequence[float],
        bounds: Sequence[tuple[float, float]],
    ):
        super().__init__(layers, rates, bounds)
        if steps > layers - 1:
            raise ConfigError(f"kernel.steps = {steps} is too many for {layers} decoder layers; give 1..{layers - 1}")
        self.steps, self.places = steps, tuple(places)

    @abstractmethod
    def row(self, factors: dict[int, float]) -> tuple[list[float], list[float]]:
        """Positions that are parameters, and the factor of every step, for what cut layers keep of what is left."""

    def encode(self, schedule: Sequence[float]) -> Tensor:
        """The nearest schedule with so few cuts; steps that are left over keep everything. Shape (size,)."""
        return self._rows([nearest_cuts(schedule, self.places, self.steps)])[0]

    def starts(self, levels: Sequence[float]) -> Tensor:
        """Every choice of up to ``steps`` cut layers with every falling choice of levels, thinned where too many."""
        return self._rows(spread_cuts(self.places, self.steps, levels))

    def _rows(self, choices: Sequence[Cuts]) -> Tensor:
        kept = (
            [after / before if before else 1.0 for before, after in pairwise((1.0, *levels))] for _, levels in choices
        )
        rows = [self.row(dict(zip(cuts, share, strict=True))) for (cuts, _), share in zip(choices, kept, strict=True)]
        positions, factors = (torch.tensor(part, dtype=torch.float64) for part in zip(*rows, strict=True))
        return torch.cat([positions, logit(factors)], dim=1).float()


def nearest_cuts(schedule: Sequence[float], places: Sequence[int], steps: int) -> Cuts:
    """The schedule nearest to ``schedule`` in the mean square that is 1 first and falls at ``steps`` of ``places``.

    Every piece holds the mean of what it stands for. Of equally near ones the one with the fewest cuts is taken.
    By dynamic programming over the last cut.
    """

    def level(start: int, end: int) -> float:
        mean = sum(schedule[start:end]) / (end - start)
        return min(max(mean, schedule[end - 1]), schedule[start]) if start else 1.0  # not a rounding error outside

    @cache
    def error(start: int, end: int) -> float:
        return sum((ratio - level(start, end)) ** 2 for ratio in schedule[start:end])

    ends = [*places, len(schedule)]
    # For every end: the least error before it, and the cuts that have it.
    best: list[tuple[float, tuple[int, ...]]] = [(error(0, end), ()) for end in ends]
    least, chosen = best[-1]
    for _ in range(min(steps, len(places))):
        best = [
            min(
                (
                    (before + error(start, end), (*cuts, start))
                    for (before, cuts), start in zip(best[:index], ends[:index], strict=True)
                ),
                default=(inf, ()),
            )
            for index, end in enumerate(ends)
        ]
        if best[-1][0] < least - 1e-15:
            least, chosen = best[-1]
    return chosen, tuple(level(start, end) for start, end in pairwise((*chosen, len(schedule))))


def spread_cuts(places: Sequence[int], steps: int, levels: Sequence[float], most: int = MOST_STARTS) -> list[Cuts]:
    """Every choice of up to ``steps`` cuts and as many falling levels below 1, fewer cuts first.

    Where these are more than ``most``, every number of cuts gets the same share of them; those that need less leave it
    to the others. A share is drawn at random, always in the same way.
    """
    falling = sorted({float(level) for level in levels if level < 1.0}, reverse=True)
    numbers = range(1, min(steps, len(places), len(falling)) + 1)
    chosen: list[Cuts] = []
    draw = random.Random(0)
    for number in numbers:
        share = (most - len(chosen)) // (numbers[-1] - number + 1)
        if comb(len(places), number) * comb(len(falling), number) <= share:
            chosen += product(combinations(places, number), combinations(falling, number))
            continue
        drawn: dict[Cuts, None] = {}
        while len(drawn) < share:
            cuts, below = sorted(draw.sample(places, number)), sorted(draw.sample(falling, number), reverse=True)
            drawn[tuple(cuts), tuple(below)] = None
        chosen += drawn
    return chosen
