"""Parametric families of schedules, monotone by construction."""

from collections.abc import Callable

from vispco.errors import ConfigError
from vispco.kernels.base import Kernel
from vispco.kernels.exponential import Exponential
from vispco.kernels.free import Free
from vispco.kernels.linear import Linear
from vispco.kernels.logistic import Logistic
from vispco.kernels.multistep import MultiStep
from vispco.kernels.multistep_fixed import FixedMultiStep
from vispco.kernels.step import Step

REGISTRY: dict[str, Callable[[int, int], Kernel]] = {
    "step": lambda layers, steps: Step(layers),
    "linear": lambda layers, steps: Linear(layers),
    "exponential": lambda layers, steps: Exponential(layers),
    "logistic": lambda layers, steps: Logistic(layers),
    "multistep_fixed": FixedMultiStep,
    "multistep": MultiStep,
    "free": lambda layers, steps: Free(layers),
}
"""Kernels by name, made from the number of decoder layers and of steps; those without a choice of steps ignore it."""


def check_kernel(name: str, steps: int = 1) -> None:
    """What can be refused before the number of layers is known.

    Raises
    ------
    ConfigError
        If there is no kernel called ``name``, or ``steps`` is not at least 1.
    """
    if name not in REGISTRY:
        raise ConfigError(f"kernel {name!r} is unknown; choose one of {', '.join(REGISTRY)}")
    if steps < 1:
        raise ConfigError(f"kernel.steps = {steps} is too small; give at least 1")


def make_kernel(name: str, layers: int, steps: int = 1) -> Kernel:
    """The kernel called ``name`` for a decoder of ``layers`` layers.

    Raises
    ------
    ConfigError
        As :func:`check_kernel`, or if there are too many steps or too few layers.
    """
    check_kernel(name, steps)
    return REGISTRY[name](layers, steps)


__all__ = ["REGISTRY", "Kernel", "check_kernel", "make_kernel"]
