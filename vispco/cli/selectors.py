"""``vispco selectors``: the methods that choose visual tokens, and what each needs."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vispco.selectors import REGISTRY, Knob, Merger, Nested, Orderer, Scorer, Setter

HEADINGS = ("selector", "kind", "needs", "nested", "by gradient", "attention-free", "knobs", "work per cut", "from")
KINDS: dict[str, Any] = {"scorer": Scorer, "orderer": Orderer, "ranker": Nested, "merger": Merger, "setter": Setter}
"""The narrowest first."""

ATTENTION: dict[str, set[str]] = {
    "no": {
        "last_row", "visual_row", "next_row", "unrotated_row", "question_rows", "question_heads",
        "self_mass", "cross_mass",
    },
    "in the decoder": {"tower_row", "tower_first_row"},
}  # fmt: skip
"""Signals that are attention: with one of them a selector is not free of it, or free of the decoder's alone."""


def rows() -> Iterator[tuple[str, ...]]:
    """One row per selector, in the order of :data:`HEADINGS`."""
    for name, kind in REGISTRY.items():
        shape = next(word for word, of in KINDS.items() if issubclass(kind, of))
        nested = _yes(issubclass(kind, Nested))
        knobs = ", ".join(
            f"{knob} {_range(of)}" + " (by gradient)" * (knob in kind.smooth_knobs) for knob, of in kind.knobs.items()
        )
        free = next((answer for answer, signals in ATTENTION.items() if kind.needs & signals), "yes")
        yield name, shape, ", ".join(sorted(kind.needs)), nested, nested, free, knobs, kind.complexity, kind.paper


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


def _range(knob: Knob) -> str:
    return f"{knob.low:.3g}..{knob.high:.3g}"


def markdown() -> str:
    """The table as documents show it."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def selectors(arguments: Sequence[str]) -> None:
    """Print the table of selectors."""
    parser = argparse.ArgumentParser(prog="vispco selectors", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="as the documents show it")
    if parser.parse_args(arguments).markdown:
        print(markdown(), end="")
        return
    table = Table(title="selectors")
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=heading == "selector")
    for row in rows():
        table.add_row(*row)
    Console(width=max(200, Console().width)).print(table)
