"""One gentle slope: VisPCO's gentle kernel (arXiv 2604.15188, eq. 14 with a small gamma), motivated by G-Search.

The formula, where ``1 / w`` is the paper's gamma, of which it names no value::

    r_l = 1 - (1 - s) sigmoid((l - c) / w),    s = factor(a),    w = max(1, L / 8),    r_0 = 1

Centres may lie before the first layer, where the schedule has the same ratio throughout.
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from vispco.kernels.base import LIMIT, LOGIT_RATE, POSITION_RATE, factor, logit
from vispco.kernels.smooth import Smooth


class Logistic(Smooth):
    """Kernel with parameters ``(c, a)``; centres are legal at 1 - 10 w..L-1."""

    def __init__(self, layers: int):
        self.width = max(1.0, layers / 8)
        bounds = [(1.0 - 10 * self.width, layers - 1.0), (-LIMIT, LIMIT)]
        super().__init__(layers, [POSITION_RATE, LOGIT_RATE], bounds)

    def ratios(self, parameters: Tensor, sharpness: float) -> Tensor:
        """See the module's description. Shape (..., layers)."""
        centre, logits = parameters[..., None].unbind(dim=-2)
        depth = self.depth(parameters)
        gate = torch.sigmoid((depth - centre) / self.width) * (depth > 0)
        return 1 - (1 - factor(logits)) * gate

    def grid(self, ladder: Sequence[float]) -> Tensor:
        """Every centre at a layer, or before all of them, with every ratio below 1; shape (number, 2)."""
        centres = [float(self.bounds[0, 0]), *map(float, range(1, self.layers))]
        centre, last = torch.tensor(list(product(centres, ladder[1:])), dtype=torch.float64).T
        return torch.stack([centre, logit(last)], dim=1)
