"""Selectors: which visual tokens stay. One file per method, one line here."""

from collections.abc import Mapping
from typing import Any

from vispco.errors import ConfigError
from vispco.selectors.base import Selector, SelectorInputs, rank_tokens
from vispco.selectors.fastv import FastV
from vispco.selectors.random import Random

REGISTRY: dict[str, type[Selector]] = {"fastv": FastV, "random": Random}
"""Selectors by name."""


def make_selector(name: str, parameters: Mapping[str, Any] | None = None) -> Selector:
    """The selector called ``name`` with its parameters.

    Raises
    ------
    ConfigError
        If there is no such selector, or it has no such parameter.
    """
    if name not in REGISTRY:
        raise ConfigError(f"selector {name!r} is unknown; choose one of {', '.join(REGISTRY)}")
    try:
        return REGISTRY[name](**(parameters or {}))
    except TypeError as error:
        raise ConfigError(f"selector {name!r} does not take parameters {dict(parameters or {})} ({error})") from None


__all__ = ["REGISTRY", "FastV", "Random", "Selector", "SelectorInputs", "make_selector", "rank_tokens"]
