"""Where a learned search starts: the schedules of a kernel that the probed damage likes best, for every budget."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vispco.cost import Cost
from vispco.errors import BudgetError, ConfigError
from vispco.kernels import Kernel
from vispco.search.probe import Damage
from vispco.search.space import fit_to_budget

HALVINGS = 30
STEEPEST = 64.0
"""Largest exponent that a start is stretched by to meet a budget."""


def choose_starts(
    kernel: Kernel, damage: Damage, cost: Cost, budgets: Sequence[float], number: int, levels: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Parameters of ``number`` starts per budget, each with other cut layers, and the budget that each is for.

    All starts of the kernel are stretched to every budget before their damage is predicted, so that a coarse choice of
    levels does not matter much.

    Parameters
    ----------
    kernel : Kernel
    damage : Damage
    cost : Cost
    budgets : sequence of float
    number : int
    levels : sequence of float
        Ratios that the kernel's starts are made of.

    Returns
    -------
    Tensor, shape (starts, kernel.size)
    Tensor, shape (starts,), int64
        Index of the budget.

    Raises
    ------
    BudgetError
        If no schedule of the kernel is within a budget.
    """
    table = kernel.harden(kernel.starts(levels))
    rows: list[Tensor] = []
    owner: list[int] = []
    for index, budget in enumerate(budgets):
        stretched = stretch(table, cost, budget)
        fits = (cost.excess(stretched, _all(stretched, budget)) <= 1e-6).all(dim=1).numpy()
        predicted = np.where(fits, damage.predict(stretched.numpy()), np.inf)
        seen: set[tuple[int, ...]] = set()
        for place in np.argsort(predicted, kind="stable")[: int(fits.sum())]:
            schedule = stretched[place]
            cuts = tuple((schedule.diff() < -0.02).nonzero()[:, 0].tolist())
            if cuts in seen:
                continue
            try:
                fitted = fit_to_budget(schedule.tolist(), cost, budget)
            except ConfigError:  # the soft cost knows nothing of what choosing tokens costs
                continue
            seen.add(cuts)
            rows.append(kernel.encode(fitted))
            owner.append(index)
            if len(seen) == number:
                break
        if not seen:
            raise BudgetError(
                f"budget {budget:g} is out of reach of kernel {type(kernel).__name__}, whose schedules cost "
                f"{cost.soft(stretched).min():.3f} or more, and what choosing tokens costs; raise the budget or choose "
                "another kernel"
            )
    return torch.stack(rows), torch.tensor(owner)


def stretch(schedules: Tensor, cost: Cost, budget: float) -> Tensor:
    """``r ** t`` with the least t that brings each schedule's soft cost within ``budget``; shape (number, layers).

    The twin of :func:`vispco.search.space.fit_to_budget` for many schedules at once, without rounding.
    """
    low, high = torch.zeros(len(schedules), dtype=torch.float64), torch.full((len(schedules),), STEEPEST).double()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = (cost.excess(schedules ** middle[:, None], _all(schedules, budget)) > 0).any(dim=1)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return schedules ** high[:, None]


def _all(schedules: Tensor, budget: float) -> Tensor:
    return torch.full((len(schedules),), budget, dtype=torch.float64)
