"""Selectors as the conformance suite runs them; every registered one has an entry."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SelectorCase:
    """One selector with its parameters.

    Attributes
    ----------
    selector : str
    params : dict
    """

    selector: str
    params: dict[str, Any] = field(default_factory=dict)


SELECTORS: dict[str, SelectorCase] = {
    "fastv": SelectorCase("fastv"),
    "random": SelectorCase("random", {"seed": 3}),
}
"""Entries by name; a selector with variants that differ in kind has several."""
