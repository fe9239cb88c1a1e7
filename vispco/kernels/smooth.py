"""What kernels without cuts share: schedules that fall a little before every layer, by two or three parameters."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from vispco.kernels.base import MOST_STARTS, Kernel

GRID = [1.0, 0.9, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02, 0.01, 0.0]
"""Ratios of the starts that a fit is begun from."""

DIFFERENCE = 1e-6
"""Of parameters, for slopes of a fit in float64."""

EXACT = 1e-16
"""Sum of squares that a fit ends at; float32 parameters do not hold more."""


class Smooth(Kernel):
    """Kernel whose smooth schedule is exported as it is; sharpness plays no part."""

    def harden(self, parameters: Tensor) -> Tensor:
        """The same schedule in float64, freed of rises by rounding. Shape (..., layers)."""
        return self.ratios(parameters.detach().double(), torch.inf).cummin(dim=-1).values

    @abstractmethod
    def grid(self, ladder: Sequence[float]) -> Tensor:
        """Parameters spread over the family, to ratios of ``ladder``, which falls from 1; shape (number, size)."""

    def starts(self, levels: Sequence[float]) -> Tensor:
        """Every row of the kernel's grid that drops something in a way of its own; of too many, every second or so."""
        rows = self.grid(sorted({1.0, *map(float, levels)}, reverse=True)).float()
        first = {tuple(schedule): place for place, schedule in reversed(list(enumerate(self.harden(rows).tolist())))}
        places = sorted(place for schedule, place in first.items() if schedule[-1] < 1.0)
        return rows[places[:: len(places) // MOST_STARTS + 1]]

    def progress(self, like: Tensor) -> Tensor:
        """Where layers 1..L-1 are between the first and the last of them, 0..1; shape (layers - 1,)."""
        return self.depth(like)[:-1] / max(1, self.layers - 2)

    def encode(self, schedule: Sequence[float]) -> Tensor:
        """The nearest member, by damped Gauss-Newton steps from the nearest start; shape (size,)."""
        target = torch.tensor(schedule, dtype=torch.float64)

        def error(rows: Tensor) -> Tensor:
            return (self.harden(rows) - target).square().sum(dim=-1)

        starts = self.starts(GRID).double()
        best = starts[error(starts).argmin()]
        each = torch.eye(self.size, dtype=torch.float64)
        damping = 1e-3
        for _ in range(500):
            if error(best) < EXACT or damping > 1e3:
                break
            slope = (self.harden(best + DIFFERENCE * each) - self.harden(best - DIFFERENCE * each)) / (2 * DIFFERENCE)
            wanted = slope @ (target - self.harden(best))
            tried = self.project(best + torch.linalg.solve(slope @ slope.T + damping * each, wanted))
            if error(tried) < error(best) * (1 - 1e-7):
                best, damping = tried, max(damping / 10, 1e-12)
            else:
                damping *= 10
        return best.float()
