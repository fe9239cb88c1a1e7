"""Any non-increasing schedule: every layer keeps a learnable share of what the one before it kept.

The formula::

    r_l = prod_{1 <= j <= l} s_j,    s_j = factor(a_j)

It has no positions, so sharpness plays no part: a drop does not move, it shrinks at one layer and grows at another.
"""

import torch
from torch import Tensor

from vispco.kernels.base import LIMIT, LOGIT_RATE, factor
from vispco.kernels.stepped import Stepped


class Free(Stepped):
    """Kernel with parameters ``(a_1..a_{L-1})``."""

    def __init__(self, layers: int):
        steps = layers - 1
        super().__init__(layers, steps, range(1, layers), [LOGIT_RATE] * steps, [(-LIMIT, LIMIT)] * steps)

    def ratios(self, parameters: Tensor, sharpness: float) -> Tensor:
        """See the module's description. Shape (..., layers)."""
        factors = factor(parameters)
        return torch.cat([torch.ones_like(factors[..., :1]), factors], dim=-1).cumprod(dim=-1)

    def harden(self, parameters: Tensor) -> Tensor:
        """The same in float64. Shape (..., layers)."""
        return self.ratios(parameters.detach().double(), torch.inf)

    def row(self, factors: dict[int, float]) -> tuple[list[float], list[float]]:
        """Layers without a cut keep everything."""
        return [], [factors.get(place, 1.0) for place in self.places]
