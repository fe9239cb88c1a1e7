"""What the study runs: every registered selector as it comes, and published variants of some."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vispco.selectors import REGISTRY, make_selector

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "balanced_fastv": tuple({"alpha": alpha / 10} for alpha in range(11)),
    "cdpruner": ({"negated": True},),
    "divprune": ({"source": "hidden"},),
    "feather": ({"stride": 1},),
    "mob": ({"preset": "strong"}, {"preset": "weak"}),
    "prumerge": ({"spatial": 0.5},),
    "visionzip": ({"rule": "sum"},),
    "vispruner": ({"important": 0.75}, {"order": "authors"}),
    "window_fastv": ({"window": 2}, {"window": 5}),
}
"""Parameters beside the default ones, by selector."""

DECODER_ATTENTION = frozenset(
    {"last_row", "visual_row", "next_row", "unrotated_row"}
    | {"question_rows", "question_heads", "self_mass", "cross_mass"}
)
TOWER_ATTENTION = frozenset({"tower_row", "tower_first_row"})


@dataclass(frozen=True)
class Entry:
    """A selector with its parameters, under the name that tables give it."""

    label: str
    selector: str
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def attention(self) -> str:
        """Whose attention it reads."""
        needs = make_selector(self.selector, self.params).needs
        sides = {"decoder": needs & DECODER_ATTENTION, "tower": needs & TOWER_ATTENTION}
        return " and ".join(side for side, read in sides.items() if read) or "none"


def label_of(selector: str, params: Mapping[str, Any]) -> str:
    return " ".join([selector, *(f"{name}={value}" for name, value in params.items())])


def entries(only: Iterable[str] = ()) -> list[Entry]:
    """All of them, or those of the selectors named and of the three that the others are held against."""
    first = ("random", "fastv", "pooling")
    names = [*first, *(name for name in REGISTRY if name not in first)]
    wanted = {*first, *only} if only else set(names)
    found = []
    for name in filter(wanted.__contains__, names):
        for params in ({}, *VARIANTS.get(name, ())):
            found.append(Entry(label_of(name, params), name, params))
    return found
