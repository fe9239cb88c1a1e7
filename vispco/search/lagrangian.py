"""Augmented Lagrangian for inequality constraints: several costs together, for many independent problems at once.

Every problem p minimises its own ``f_p(x)`` subject to ``g_pi(x) <= 0`` for its constraints i, and has its own
multipliers ``lambda_pi`` and penalties ``rho_pi``. The primal steps go down (Powell-Hestenes-Rockafellar form; Nocedal
and Wright, Numerical Optimization, 2nd edition, eq. 17.64 and 17.65)::

    f_p(x) + sum_i (max(0, lambda_pi + rho_pi g_pi(x))^2 - lambda_pi^2) / (2 rho_pi)

The dual step, taken now and then, is projected and may be damped (d; a full step is d = 1)::

    lambda_pi <- max(0, lambda_pi + d rho_pi g_pi)

The primal uses the soft, differentiable violation. The dual step and the penalty use the exact one: the multiplier has
to answer for what is really spent, so it also takes up whatever the soft cost gets wrong. Where there is slack and the
multiplier is 0, value and gradient are exactly 0: spending less than allowed is not punished. A multiplier that is too
large falls as long as there is slack, and reaches 0 in finitely many steps.

The penalty of a constraint grows where the multiplier alone does not help: the violation is above ``resolution`` and
did not fall to ``1 - d (1 - tolerance)`` times what it was when the constraint was last violated (a damped step cannot
bring it below ``1 - d``). A penalty has to be large enough that the problem is convex near its solution. Beyond that it
only stiffens the primal and lengthens the dual steps, which swing when the primal has not settled in between.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from vispco.errors import ConfigError


@dataclass
class AugmentedLagrangian:
    """Multipliers and penalties of ``problems`` problems, all with the same number of constraints.

    Parameters
    ----------
    problems : int
    constraints : int or None
        Per problem. Violations have shape (problems, constraints); with None there is one, and shape (problems,).
    penalty : float
        First rho.
    growth : float
        Factor on a rho that grows; at least 1.
    tolerance : float
        In (0, 1]. A violation that a full dual step brought down to this part of the last one leaves rho as it is.
    cap : float
        Largest rho.
    damping : float
        Factor d on the dual step, in (0, 1]. Below 1 the multiplier overshoots less while the target still moves, or
        while the primal steps between two dual steps are too few to settle.
    resolution : float
        Violations up to this size leave rho as it is. An exact cost in whole units cannot meet its budget more closely
        than by about one unit, and would otherwise drive rho to its cap.

    Attributes
    ----------
    multiplier, rho : Tensor, shape (problems,) or (problems, constraints), float64

    Raises
    ------
    ConfigError
        If a parameter is out of its range.
    """

    problems: int
    constraints: int | None = None
    _: KW_ONLY
    penalty: float = 1.0
    growth: float = 2.0
    tolerance: float = 0.5
    cap: float = 1e3
    damping: float = 1.0
    resolution: float = 0.0

    def __post_init__(self) -> None:
        """Start with multipliers of 0."""
        for name, legal, allowed in (
            ("penalty", 0 < self.penalty <= self.cap, f"above 0 and up to cap = {self.cap:g}"),
            ("growth", self.growth >= 1, "at least 1"),
            ("tolerance", 0 < self.tolerance <= 1, "above 0 and up to 1"),
            ("damping", 0 < self.damping <= 1, "above 0 and up to 1"),
            ("resolution", self.resolution >= 0, "at least 0"),
        ):
            if not legal:
                raise ConfigError(
                    f"{name} = {getattr(self, name):g} of the augmented Lagrangian is out of range; give {allowed}"
                )
        shape = (self.problems,) if self.constraints is None else (self.problems, self.constraints)
        self.multiplier = torch.zeros(shape, dtype=torch.float64)
        self.rho = torch.full(shape, self.penalty, dtype=torch.float64)
        self._last = torch.full(shape, torch.inf, dtype=torch.float64)

    def __call__(self, violation: Tensor) -> Tensor:
        """What the primal adds to each problem's objective.

        Parameters
        ----------
        violation : Tensor, shape (problems,) or (problems, constraints)
            Soft ``g(x)``; negative where there is slack.

        Returns
        -------
        Tensor, shape (problems,), float64
            The sum over a problem's constraints.
        """
        self._check(violation)
        pull = (self.multiplier + self.rho * violation.double()).clamp(min=0.0)
        value = (pull.square() - self.multiplier.square()) / (2 * self.rho)
        return value if self.constraints is None else value.sum(dim=1)

    def update(self, violation: Tensor) -> None:
        """Dual step, then growth of the penalties, from the exact ``g(x)``; shape as in the call."""
        self._check(violation)
        exact = violation.detach().double()
        self.multiplier = (self.multiplier + self.damping * self.rho * exact).clamp(min=0.0)
        # The last violation outlives satisfied rounds: an oscillation that dies out is progress, one that goes on is
        # not. The first violation has nothing to be compared with.
        enough = 1 - self.damping * (1 - self.tolerance)
        stuck = (exact > self.resolution) & (exact > enough * self._last)
        self.rho = torch.where(stuck, (self.rho * self.growth).clamp(max=self.cap), self.rho)
        self._last = torch.where(exact > 0, exact, self._last)

    def keep(self, index: Tensor) -> None:
        """Go on with the problems ``index`` only."""
        self.multiplier, self.rho, self._last = self.multiplier[index], self.rho[index], self._last[index]
        self.problems = len(self.multiplier)

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes, by name."""
        return {"multiplier": self.multiplier, "rho": self.rho, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.multiplier, self.rho, self._last = state["multiplier"], state["rho"], state["last"]
        self.problems = len(self.multiplier)

    def _check(self, violation: Tensor) -> None:
        """Violations of another shape would broadcast to multipliers that are not theirs."""
        if violation.shape != self.multiplier.shape:
            raise ValueError(
                f"violation has shape {tuple(violation.shape)}; this Lagrangian needs {tuple(self.multiplier.shape)}"
            )
