"""What a scorer is."""

from collections.abc import Sequence
from typing import Protocol

from vispco.data.samples import Sample
from vispco.errors import DataError


class Scorer(Protocol):
    """What answers are worth, by the official definition of a benchmark."""

    def score(self, prediction: str, sample: Sample) -> float:
        """Worth of one generated answer, in 0..1; an empty or unreadable one is worth 0."""

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """Further official numbers of a whole evaluation by name, such as F1; none for most benchmarks."""

    def check(self, sample: Sample) -> None:
        """Before anything is generated: whether the scorer can read the references of a sample.

        Raises
        ------
        DataError
            If it cannot, since every answer would be worth 0.
        """


class PerSample(Scorer, Protocol):
    """A scorer whose official number is the mean over samples."""

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """None."""
        return {}


def refusal(sample: Sample, problem: str, remedy: str) -> DataError:
    """What :meth:`Scorer.check` raises."""
    return DataError(f"sample {sample.index}: {problem}; {remedy}, or choose another data.scorer")


def share(flags: Sequence[bool]) -> float:
    """Fraction of those that are true; 0 of nothing."""
    return sum(flags) / len(flags) if flags else 0.0
