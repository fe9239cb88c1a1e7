"""Steps with learnable positions and sizes: the shape that optimal schedules were measured to have.

With steps j = 1..M, centres ``c_j`` and factors ``s_j = sigmoid(a_j)`` in (0, 1)::

    r_l = prod_j [ 1 - g_j(l) (1 - s_j) ],    g_j(l) = sigmoid(sharpness (l - c_j + 1/2)),    g_j(0) = 0

Every factor is non-increasing in ``l``, so the schedule is monotone by construction, whatever the parameters, and
``r_0 = 1``. At infinite sharpness step j multiplies the ratio by ``s_j`` from layer ``round(c_j)`` on. One step is the
form of FastV (Chen et al., arXiv 2403.06764); several are VisPCO's multi-step kernel (arXiv 2604.15188, eq. 17) with
centres that move.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

IDLE = 0.98
"""Factor of a step that does next to nothing, but can still learn to."""


class MultiStep:
    """Kernel of ``steps`` steps.

    Parameters are one row ``(c_1..c_M, a_1..a_M)`` of length ``2 * steps``; every method takes leading batch
    dimensions.
    """

    def __init__(self, steps: int):
        self.steps = steps

    def encode(self, schedule: Sequence[float], cuts: Sequence[int]) -> Tensor:
        """Parameters that harden to a schedule whose ratio falls at ``cuts`` only; shape (2 * steps,).

        With fewer cuts than steps, the steps left over stand at the last layer and keep nearly everything.
        """
        idle = self.steps - len(cuts)
        factors = [schedule[cut] / schedule[cut - 1] for cut in cuts] + [IDLE] * idle
        centres = [float(cut) for cut in cuts] + [len(schedule) - 1.0] * idle
        return torch.cat([torch.tensor(centres), torch.tensor(factors).clamp(1e-3, IDLE).logit()])

    def ratios(self, parameters: Tensor, layers: int, sharpness: float) -> Tensor:
        """Smooth schedule, shape (..., layers), differentiable in positions and sizes."""
        centres, logits = parameters[..., None, : self.steps], parameters[..., None, self.steps :]
        depth = torch.arange(layers, dtype=parameters.dtype, device=parameters.device)[:, None]
        gate = torch.sigmoid(sharpness * (depth - centres + 0.5)) * (depth > 0)
        return (1 - gate * torch.sigmoid(-logits)).prod(dim=-1)

    def harden(self, parameters: Tensor, layers: int) -> Tensor:
        """The schedule at infinite sharpness, shape (..., layers), float64."""
        exact = parameters.detach().double()
        return self.ratios(torch.cat([exact[..., : self.steps].round(), exact[..., self.steps :]], -1), layers, 1e6)

    def project(self, parameters: Tensor, layers: int) -> Tensor:
        """Parameters with their centres moved back to layers 1..layers-1."""
        return torch.cat(
            [parameters[..., : self.steps].clamp(1.0, layers - 1.0), parameters[..., self.steps :].clamp(-7.0, 7.0)], -1
        )
