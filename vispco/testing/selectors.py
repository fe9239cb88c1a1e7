"""Selectors as the conformance suite runs them; every registered one has an entry."""

from dataclasses import dataclass, field
from typing import Any

from vispco.engine.tower import TOWER
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
    def needs_tower(self) -> bool:
        """Whether it looks into the vision tower."""
        return bool(make_selector(self.selector, self.params).needs & TOWER)


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
    "sparsevlm_recycling": SelectorCase("sparsevlm_recycling", {"tau": 0.8, "theta": 0.4}),
    "sparsevlm_plus": SelectorCase("sparsevlm_plus", {"heads": 1}),
    "pooling": SelectorCase("pooling"),
    "tome": SelectorCase("tome"),
    "fastervlm": SelectorCase("fastervlm"),
    "visionzip": SelectorCase("visionzip", {"contextual": 0.5, "rule": "sum"}),
    "prumerge": SelectorCase("prumerge", {"neighbours": 2, "spatial": 0.5}),
    "vispruner": SelectorCase("vispruner", {"important": 0.25}),
    "hired": SelectorCase("hired", {"alpha": 0.25}),
    "holov": SelectorCase("holov", {"crops": 3, "alpha": 1.0}),
    "mustdrop": SelectorCase("mustdrop", {"global_threshold": 0.011, "individual_threshold": 0.01, "key_share": 0.3}),
    "topv": SelectorCase("topv", {"recover": 0.5, "sigma": 2.0, "iterations": 2}),
}
"""Entries by name; a selector with variants that differ in kind has several."""
