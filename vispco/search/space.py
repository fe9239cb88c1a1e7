"""Sets of schedules and moves between a schedule and a budget."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

from vispco.cost import Cost
from vispco.errors import ConfigError

Schedule = tuple[float, ...]


def check_ladder(ladder: Sequence[float]) -> tuple[float, ...]:
    """The ratios of ``ladder`` in falling order; ConfigError if one is outside (0, 1] or there are none."""
    bad = [ratio for ratio in ladder if not 0.0 < ratio <= 1.0]
    if bad or not ladder:
        raise ConfigError(f"ladder {list(ladder)} needs ratios in (0, 1]; {'none given' if not bad else bad[0]}")
    return tuple(sorted({float(ratio) for ratio in ladder}, reverse=True))


def monotone_schedules(layers: int, ladder: Sequence[float]) -> list[Schedule]:
    """Every non-increasing schedule on ``ladder`` with layer 0 whole; C(layers - 2 + n, n - 1) for n ratios."""
    levels = check_ladder([1.0, *ladder])
    return [(1.0, *rest) for rest in combinations_with_replacement(levels, layers - 1)]


def step_schedules(layers: int, ladder: Sequence[float]) -> list[Schedule]:
    """Every schedule with one cut: at each layer from 1 on, to each ratio of ``ladder`` below 1."""
    below = [ratio for ratio in check_ladder(ladder) if ratio < 1.0]
    return [(1.0,) * layer + (ratio,) * (layers - layer) for layer in range(1, layers) for ratio in below]


def cheapest_schedule(layers: int) -> Schedule:
    """What no schedule can undercut: layer 0 whole, a single token after it."""
    return (1.0, *[1e-6] * (layers - 1))


def fit_to_budget(schedule: Sequence[float], cost: Cost, budget: float) -> Schedule:
    """The most generous schedule of the form ``r_l ** t`` whose exact cost is within ``budget``, and within its limits.

    The family leads from the unpruned model (t = 0) through ``schedule`` (t = 1) to the cheapest one with the same cut
    layers, so a slack is filled and an excess removed without moving the cuts. Bisection in t to 1e-4, and the result
    is rounded to six digits downwards, so that it prints short and stays within the budget.

    Raises
    ------
    ConfigError
        If even the cheapest member is above the budget (its cuts come too late).
    """

    def member(t: float) -> Schedule:
        return tuple(int(max(max(ratio, 1e-6) ** t, 1e-6) * 1e6) / 1e6 for ratio in schedule)

    low, high = 0.0, 1.0
    while not cost.fits(member(high), budget):
        low, high = high, 2 * high
        if high > 1e4:
            raise ConfigError(f"a schedule that cuts like {list(schedule)} cannot cost as little as {budget:g}")
    if cost.fits(member(low), budget):
        return member(low)
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if cost.fits(member(middle), budget) else (middle, high)
    return member(high)
