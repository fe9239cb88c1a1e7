"""The same share of the tokens goes before every layer: VisPCO's exponential kernel (arXiv 2604.15188, eq. 15).

The formula, where the paper has ``r exp(-k l)``::

    r_l = s exp(-k x_l),    x_l = (l - 1) / (L - 2),    s = factor(a),    0 <= k <= 10,    r_0 = 1
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vispco.kernels.base import LIMIT, LOGIT_RATE, factor, logit
from vispco.kernels.smooth import Smooth

STEEPEST = 10.0
"""Greatest legal k; less than a token of 20,000 is left at the last layer."""


class Exponential(Smooth):
    """Kernel with parameters ``(a, k)``."""

    def __init__(self, layers: int):
        super().__init__(layers, [LOGIT_RATE] * 2, [(-LIMIT, LIMIT), (0.0, STEEPEST)])

    def ratios(self, parameters: Tensor, sharpness: float) -> Tensor:
        """See the module's description. Shape (..., layers)."""
        logits, decay = parameters[..., None].unbind(dim=-2)
        first = factor(logits)
        curve = first * (-decay.clamp(0.0, STEEPEST) * self.progress(parameters)).exp()
        return torch.cat([torch.ones_like(first), curve], dim=-1)

    def grid(self, ladder: Sequence[float]) -> Tensor:
        """Every pair of a first and a last ratio that falls or stays, but for 1 throughout; shape (number, 2)."""
        pairs = torch.tensor([(first, last) for first in ladder for last in ladder if last <= first][1:]).double()
        first, last = pairs.T
        decay = (first / last).log().nan_to_num(0.0, posinf=STEEPEST)
        return torch.stack([logit(first), decay.clamp(0.0, STEEPEST)], dim=1)
