"""Slices of the task: accuracy on each, with intervals, and what pruning changes on it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vispco.errors import DataError
from vispco.frontier import bootstrap_mean, paired_difference

K = TypeVar("K")

Ends = tuple[float, float | None, float | None]
"""An estimate and the ends of its interval, which one sample alone does not give."""


@dataclass(frozen=True)
class Scores:
    """What single samples scored, behind the means that points hold.

    Attributes
    ----------
    of : mapping of str to array_like, shape (samples,)
        Scores under every point, by its name; entry i of all belongs to sample i.
    slices : sequence of str, length samples
        Slice of every sample.
    seed : int
        Of the bootstrap.
    """

    of: Mapping[str, ArrayLike]
    slices: Sequence[str]
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse scores of other samples."""
        for name, scores in self.of.items():
            if np.shape(scores) != (len(self.slices),):
                raise DataError(
                    f"scores of {name!r} have shape {np.shape(scores)}, there are {len(self.slices)} samples; give one "
                    "score per sample"
                )

    def mean(self, name: str) -> Ends:
        """Mean over all samples under the point ``name``, with its 95 % interval."""
        return self._mean(np.asarray(self.of[name], dtype=np.float64))

    def _mean(self, scores: NDArray[np.float64]) -> Ends:
        if scores.size == 1:
            return float(scores[0]), None, None
        return bootstrap_mean(scores, seed=self.seed)

    def _change(self, scores: NDArray[np.float64], baseline: NDArray[np.float64]) -> Ends:
        if scores.size == 1:
            return float(scores[0] - baseline[0]), None, None
        return paired_difference(scores, baseline, seed=self.seed)


def slice_bars(scores: Scores, names: Sequence[str], baseline: str | None) -> dict[str, Any]:
    """Bars of the points ``names``: for all samples first, and then for every slice by its name.

    Returns
    -------
    dict
        ``rows``: name and number of samples; ``unpruned``: mean of the point ``baseline`` on every row, or None;
        ``bars``: by name of a point ``scores`` and ``changes`` against ``baseline`` (None without one) on every row,
        and ``worst``, the row of the slice that loses most, or None where none loses.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(scores.slices):
        members[name].append(index)
    rows = [list(range(len(scores.slices))), *(members[name] for name in sorted(members))]

    def on_rows(name: str) -> list[NDArray[np.float64]]:
        values = np.asarray(scores.of[name], dtype=np.float64)
        return [values[row] for row in rows]

    whole = None if baseline is None else on_rows(baseline)
    bars = {}
    for name in names:
        mine = on_rows(name)
        changes = None if whole is None else [scores._change(a, b) for a, b in zip(mine, whole, strict=True)]
        lost = {row: -change[0] for row, change in enumerate(changes or []) if row}
        worst = worst_of(lost)
        bars[name] = {"scores": [scores._mean(values) for values in mine], "changes": changes, "worst": worst}
    return {
        "rows": [("all", len(scores.slices)), *((name, len(members[name])) for name in sorted(members))],
        "unpruned": None if whole is None else [scores._mean(values) for values in whole],
        "bars": bars,
    }


def worst_of(losses: Mapping[K, float]) -> K | None:
    """The key of the largest loss, the first of equals; None where nothing is lost."""
    worst = max(losses, key=lambda key: losses[key], default=None)
    return worst if worst is not None and losses[worst] > 0.0 else None
