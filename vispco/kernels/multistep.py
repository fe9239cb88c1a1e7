"""Steps with learnable positions and sizes: the shape that optimal schedules were measured to have.

With steps j = 1..M, centres ``c_j`` and factors ``s_j = factor(a_j)`` in [0, 1]::

    r_l = prod_j [ 1 - g(l - c_j) (1 - s_j) ],    r_0 = 1

with the gate g of :func:`vispco.kernels.base.gate`, which rises from 0 to 1 around a cut. Every term is non-increasing
in ``l``, so the schedule is monotone by construction, whatever the parameters. Hardened, step j multiplies the ratio by
``s_j`` from layer ``round(c_j)`` on. This is VisPCO's multi-step kernel (arXiv 2604.15188, eq. 17) with centres that
move and sizes of their own.
"""

from torch import Tensor

from vispco.kernels.base import LIMIT, LOGIT_RATE, POSITION_RATE, factor, gate
from vispco.kernels.stepped import Stepped


class MultiStep(Stepped):
    """Kernel of ``steps`` steps, with parameters ``(c_1..c_M, a_1..a_M)``; centres are legal at layers 1..layers-1."""

    def __init__(self, layers: int, steps: int):
        rates = [POSITION_RATE] * steps + [LOGIT_RATE] * steps
        bounds = [(1.0, layers - 1.0)] * steps + [(-LIMIT, LIMIT)] * steps
        super().__init__(layers, steps, range(1, layers), rates, bounds)

    def ratios(self, parameters: Tensor, sharpness: float) -> Tensor:
        """See the module's description. Shape (..., layers)."""
        centres, factors = self._steps(parameters)
        depth = self.depth(parameters)[:, None]
        gates = gate(depth - centres, sharpness) * (depth > 0)
        return (1 - gates * (1 - factors)).prod(dim=-1)

    def harden(self, parameters: Tensor) -> Tensor:
        """Every step whole, at the layer nearest to its centre. Shape (..., layers), float64."""
        centres, factors = self._steps(parameters.detach().double())
        first = centres.round().clamp(min=1.0)
        return factors.where(self.depth(centres)[:, None] >= first, 1.0).prod(dim=-1)

    def row(self, factors: dict[int, float]) -> tuple[list[float], list[float]]:
        """Steps that are left over stand at the last layer and keep everything."""
        idle = self.steps - len(factors)
        return [*map(float, factors), *[self.layers - 1.0] * idle], [*factors.values(), *[1.0] * idle]

    def _steps(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Centres and factors, shape (..., 1, steps) each."""
        centres, logits = parameters[..., None, :].tensor_split(2, dim=-1)
        return centres, factor(logits)
