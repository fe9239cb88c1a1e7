"""The same number of tokens goes before every layer: VisPCO's linear kernel (arXiv 2604.15188, eq. 16).

The paper's ``r - k l`` clips at 0 and 1, where gradients end. Here the line joins two ratios, that of layer 1 and that
of the last layer, which is a share of it::

    r_l = s (1 - (1 - t) x_l),    x_l = (l - 1) / (L - 2),    s = factor(a),    t = factor(b),    r_0 = 1
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vispco.kernels.base import LIMIT, LOGIT_RATE, factor, logit
from vispco.kernels.smooth import Smooth


class Linear(Smooth):
    """Kernel with parameters ``(a, b)``."""

    def __init__(self, layers: int):
        super().__init__(layers, [LOGIT_RATE] * 2, [(-LIMIT, LIMIT)] * 2)

    def ratios(self, parameters: Tensor, sharpness: float) -> Tensor:
        """See the module's description. Shape (..., layers)."""
        first, share = factor(parameters)[..., None].unbind(dim=-2)
        line = first * (1 - (1 - share) * self.progress(parameters))
        return torch.cat([torch.ones_like(first), line], dim=-1)

    def grid(self, ladder: Sequence[float]) -> Tensor:
        """Every pair of a first and a last ratio that falls or stays, but for 1 throughout; shape (number, 2)."""
        pairs = [(first, last / first if first else 1.0) for first in ladder for last in ladder if last <= first]
        return logit(torch.tensor(pairs[1:], dtype=torch.float64))
