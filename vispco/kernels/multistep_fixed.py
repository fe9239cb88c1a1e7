"""Steps of learnable size at fixed layers, spread evenly over the depth, as in VisPCO.

VisPCO's multi-step kernel (arXiv 2604.15188, eq. 17) has its centres at ``(2j - 1) L / (2M)``, a common size and a
learnable steepness. Here every step has a size of its own, and stands at the layer nearest to its centre::

    r_l = prod_j [ 1 - g(l - c_j) (1 - s_j) ],    s_j = factor(a_j),    c_j = floor((2j - 1) L / (2M) + 1/2),    r_0 = 1

with the gate g of :func:`vispco.kernels.base.gate`. With M = L - 1 steps there is one at every layer.
"""

import torch
from torch import Tensor

from vispco.kernels.base import LIMIT, LOGIT_RATE, factor, gate
from vispco.kernels.stepped import Stepped


class FixedMultiStep(Stepped):
    """Kernel of ``steps`` steps with parameters ``(a_1..a_M)``."""

    def __init__(self, layers: int, steps: int):
        places = [((2 * step - 1) * layers + steps) // (2 * steps) for step in range(1, steps + 1)]
        super().__init__(layers, steps, places, [LOGIT_RATE] * steps, [(-LIMIT, LIMIT)] * steps)

    def ratios(self, parameters: Tensor, sharpness: float) -> Tensor:
        """See the module's description. Shape (..., layers)."""
        depth = self.depth(parameters)[:, None]
        gates = gate(depth - torch.tensor(self.places).to(depth), sharpness) * (depth > 0)
        return (1 - gates * (1 - factor(parameters)[..., None, :])).prod(dim=-1)

    def harden(self, parameters: Tensor) -> Tensor:
        """Every step whole, at its layer. Shape (..., layers), float64."""
        factors = factor(parameters.detach().double())[..., None, :]
        depth = self.depth(factors)[:, None]
        return factors.where(depth >= torch.tensor(self.places).to(depth), 1.0).prod(dim=-1)

    def row(self, factors: dict[int, float]) -> tuple[list[float], list[float]]:
        """Steps that are left over keep everything."""
        return [], [factors.get(place, 1.0) for place in self.places]
