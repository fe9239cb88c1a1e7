"""Selectors as the conformance suite runs them; every registered one has an entry."""

from dataclasses import dataclass, field
from typing import Any

from vispco.selectors import make_selector


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

    @property
    def needs_grid(self) -> bool:
        """Whether it asks where a token stands in its image."""
        return "grid" in make_selector(self.selector, self.params).needs


SELECTORS: dict[str, SelectorCase] = {
    "fastv": SelectorCase("fastv"),
    "fitprune": SelectorCase("fitprune"),
    "sparsevlm": SelectorCase("sparsevlm"),
    "mob": SelectorCase("mob", {"share": 0.25, "k": 2}),
    "random": SelectorCase("random", {"seed": 3}),
    "uniform_grid": SelectorCase("uniform_grid"),
    "reverse_fastv": SelectorCase("reverse_fastv"),
    "visual_fastv": SelectorCase("visual_fastv"),
    "window_fastv": SelectorCase("window_fastv", {"window": 2}),
    "balanced_fastv": SelectorCase("balanced_fastv", {"alpha": 0.1}),
    "dart": SelectorCase("dart", {"visual_pivots": 2, "text_pivots": 1}),
    "divprune": SelectorCase("divprune"),
    "cdpruner": SelectorCase("cdpruner"),
    "pyramiddrop": SelectorCase("pyramiddrop"),
    "feather": SelectorCase("feather", {"stride": 2}),
}
"""Entries by name; a selector with variants that differ in kind has several."""
