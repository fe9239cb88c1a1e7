"""What a configuration costs: exact from integer counts, soft for the gradient."""

from collections.abc import Sequence
from typing import Any

from vispco.cost.flops import Cut, DecoderShape, FlopCost, FlopReport, Selection, count_flops
from vispco.errors import ConfigError

REGISTRY = {"flops": FlopCost}
"""Costs by name."""


def make_cost(name: str, config: Any, tokens: Sequence[tuple[int, ...]], selection: Selection = 0) -> FlopCost:
    """The cost called ``name`` over samples; parameters as of :class:`FlopCost`.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in REGISTRY:
        raise ConfigError(f"cost {name!r} is unknown; choose one of {', '.join(REGISTRY)}")
    return REGISTRY[name](config, tokens, selection)


__all__ = ["REGISTRY", "Cut", "DecoderShape", "FlopCost", "FlopReport", "count_flops", "make_cost"]
