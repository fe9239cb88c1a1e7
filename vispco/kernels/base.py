"""What a kernel is: schedules from a row of real parameters, whatever their values."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vispco.errors import ConfigError

POSITION_RATE = 0.03
"""Step of an optimiser on the position of a cut, in layers."""

LOGIT_RATE = 0.15
"""Step of an optimiser on the logit of a factor."""

LIMIT = 5.0
"""Legal logits are -LIMIT..LIMIT. They reach factors of 0 and 1 exactly, and a gradient reaches them there."""

MOST_STARTS = 4000
"""No kernel has more starts, however many layers there are."""


class Kernel(ABC):
    """A parametric family of schedules: r_0 = 1 and non-increasing by construction, whatever the parameters.

    Methods take leading batch dimensions. A smooth schedule may rise by a rounding error of its dtype where it falls on
    paper; a hardened one may not.

    Parameters
    ----------
    layers : int
        Decoder layers.
    rates : sequence of float
        Step of an optimiser on each parameter, in its own unit.
    bounds : sequence of pair of float
        Least and greatest legal value of each parameter.

    Attributes
    ----------
    size : int
        Parameters in a row.
    rates : Tensor, shape (size,)
    bounds : Tensor, shape (2, size)

    Raises
    ------
    ConfigError
        If there is no layer to prune before.
    """

    def __init__(self, layers: int, rates: Sequence[float], bounds: Sequence[tuple[float, float]]):
        if layers < 2:
            raise ConfigError(
                f"{layers} decoder layers leave nothing to prune, as layer 0 sees all; give a model of 2 or more"
            )
        self.layers, self.size = layers, len(rates)
        self.rates, self.bounds = torch.tensor(rates), torch.tensor(bounds).T

    @abstractmethod
    def ratios(self, parameters: Tensor, sharpness: float) -> Tensor:
        """Smooth schedule, differentiable.

        Parameters
        ----------
        parameters : Tensor, shape (..., size)
        sharpness : float
            How steep the cuts are, per layer; kernels whose parameters are no positions ignore it.

        Returns
        -------
        Tensor, shape (..., layers)
        """

    @abstractmethod
    def harden(self, parameters: Tensor) -> Tensor:
        """The schedule that is exported, shape (..., layers), float64: every cut at one whole layer."""

    @abstractmethod
    def encode(self, schedule: Sequence[float]) -> Tensor:
        """Parameters whose hardened schedule is the nearest in the mean square; shape (size,)."""

    @abstractmethod
    def starts(self, levels: Sequence[float]) -> Tensor:
        """Parameters spread over the family, to ratios among ``levels``; shape (number, size), 4000 rows at most."""

    def project(self, parameters: Tensor) -> Tensor:
        """Parameters moved to the nearest legal values."""
        low, high = self.bounds.to(parameters)
        return parameters.clamp(low, high)

    def depth(self, like: Tensor) -> Tensor:
        """Layer numbers, shape (layers,), of the dtype and on the device of ``like``."""
        return torch.arange(self.layers, dtype=like.dtype, device=like.device)


def factor(logits: Tensor) -> Tensor:
    """Factors in 0..1: a sigmoid stretched so that -LIMIT and LIMIT are exactly 0 and 1.

    The formula::

        s = 1/2 + tanh(a / 2) / (2 tanh(LIMIT / 2))
    """
    most = torch.full_like(logits, LIMIT / 2).tanh()
    return (0.5 + (logits / 2).tanh() / (2 * most)).clamp(0.0, 1.0)


def logit(factors: Tensor) -> Tensor:
    """The inverse of :func:`factor`, for factors in 0..1."""
    most = torch.full_like(factors, LIMIT / 2).tanh()
    return 2 * ((2 * factors - 1) * most).atanh()


def gate(offset: Tensor, sharpness: float) -> Tensor:
    """How much of a cut has happened at layers ``offset`` behind its centre: 0 before, 1 after, non-decreasing.

    A sigmoid, averaged over the width of a layer::

        g(x) = integral of sigmoid(sharpness (x + u)) over u in 0..1
             = [softplus(sharpness (x + 1)) - softplus(sharpness x)] / sharpness

    Its slope is ``sigmoid(sharpness (x + 1)) - sigmoid(sharpness x)``, which sums to 1 over all layers wherever the
    centre is. So the sum of the ratios is linear in the centre, between layers as on them, however sharp the cut. The
    sum of a plain sigmoid's slopes swings: by a factor of 1.08 at sharpness 3, and of 19 at VisPCO's 10. In the limit
    a cut at c = 2.3 is 70 % of one at layer 2 and 30 % of one at layer 3.
    """
    middle = offset + 0.5
    early = middle < 0  # the late half mirrors the early one, where nothing cancels
    before = middle.where(early, -middle)
    share = (softplus(sharpness * (before + 0.5)) - softplus(sharpness * (before - 0.5))) / sharpness
    return share.where(early, 1 - share).clamp(0.0, 1.0)
