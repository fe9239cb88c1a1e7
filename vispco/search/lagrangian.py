"""Augmented Lagrangian for inequality constraints, one multiplier and one penalty each.

For ``min f(x)`` subject to ``g_i(x) <= 0`` the primal minimises (Powell-Hestenes-Rockafellar form; Nocedal and Wright,
Numerical Optimization, eq. 17.57)::

    f(x) + sum_i (max(0, lambda_i + rho_i g_i(x))^2 - lambda_i^2) / (2 rho_i)

and the dual step, taken now and then, is ``lambda_i <- max(0, lambda_i + rho_i g_i)``. A satisfied constraint has no
pull, so spending less than allowed is never punished. The primal uses the soft, differentiable violation, the dual step
the exact one: the multiplier has to answer for what is really spent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class AugmentedLagrangian:
    """State of ``constraints`` inequality constraints.

    Parameters
    ----------
    constraints : int
    penalty : float
        First rho.
    growth : float
        Factor on rho of a constraint whose violation did not fall to ``tolerance`` times the last one.
    tolerance : float
    cap : float
        Largest rho.
    damping : float
        Share of the dual step that is taken, in (0, 1]. Below 1 the multiplier does not overshoot while the target
        still moves.
    """

    constraints: int
    penalty: float = 1.0
    growth: float = 2.0
    tolerance: float = 0.5
    cap: float = 1e3
    damping: float = 1.0

    def __post_init__(self) -> None:
        """Start with multipliers of 0."""
        self.multiplier = torch.zeros(self.constraints, dtype=torch.float64)
        self.rho = torch.full((self.constraints,), self.penalty, dtype=torch.float64)
        self._last = torch.full((self.constraints,), torch.inf, dtype=torch.float64)

    def __call__(self, violation: Tensor) -> Tensor:
        """What the primal adds to each constraint's objective.

        Parameters
        ----------
        violation : Tensor, shape (constraints,)
            Soft ``g(x)``; negative where there is slack.

        Returns
        -------
        Tensor, shape (constraints,), float64
        """
        active = (self.multiplier + self.rho * violation.double()).clamp(min=0.0)
        return (active.square() - self.multiplier.square()) / (2 * self.rho)

    def update(self, violation: Tensor) -> None:
        """Dual step from the exact ``g(x)``, shape (constraints,)."""
        exact = violation.detach().double()
        target = (self.multiplier + self.rho * exact).clamp(min=0.0)
        self.multiplier = self.multiplier + self.damping * (target - self.multiplier)
        excess = exact.clamp(min=0.0)
        stuck = excess > self.tolerance * self._last
        self.rho = torch.where(stuck & (excess > 0), (self.rho * self.growth).clamp(max=self.cap), self.rho)
        self._last = excess

    def keep(self, index: Tensor) -> None:
        """Go on with the constraints ``index`` only."""
        self.multiplier, self.rho, self._last = self.multiplier[index], self.rho[index], self._last[index]
        self.constraints = len(index)
