"""Parametric families of schedules, monotone by construction."""

from vispco.errors import ConfigError
from vispco.kernels.multistep import MultiStep

REGISTRY = {"step": lambda steps=1: MultiStep(1), "multistep": lambda steps=2: MultiStep(steps)}
"""Kernels by name; each takes the number of steps it may have."""


def make_kernel(name: str, steps: int = 2) -> MultiStep:
    """The kernel called ``name``.

    Raises
    ------
    ConfigError
        If there is none of that name, or ``steps`` is not at least 1.
    """
    if name not in REGISTRY:
        raise ConfigError(f"kernel {name!r} is unknown; choose one of {', '.join(REGISTRY)}")
    if steps < 1:
        raise ConfigError(f"kernel.steps = {steps} is too small; give at least 1")
    return REGISTRY[name](steps)


__all__ = ["REGISTRY", "MultiStep", "make_kernel"]
