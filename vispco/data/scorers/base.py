"""What a scorer is."""

from collections.abc import Sequence
from typing import Protocol

from vispco.data.samples import Sample


class Scorer(Protocol):
    """What answers are worth, by the official definition of a benchmark."""

    def score(self, prediction: str, sample: Sample) -> float:
        """Worth of one generated answer, in 0..1; an empty or unreadable one is worth 0."""

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """Further official numbers of a whole evaluation by name, such as F1; none for most benchmarks."""


class PerSample(Scorer, Protocol):
    """A scorer whose official number is the mean over samples."""

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """None."""
        return {}
