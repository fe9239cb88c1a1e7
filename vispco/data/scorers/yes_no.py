"""What scorers of yes-or-no questions share."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from vispco.data.samples import Sample
from vispco.data.scorers.base import Scorer, refusal

WORDS = ("yes", "no")


class YesNo(Scorer, Protocol):
    """1 if the answer reads as the reference does."""

    @abstractmethod
    def read(self, prediction: str) -> str | None:
        """``yes``, ``no``, or None if it is neither."""

    def score(self, prediction: str, sample: Sample) -> float:
        """0 or 1."""
        said = self.read(prediction)
        return float(said is not None and said == reference(sample))

    @abstractmethod
    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """Official numbers of the benchmark."""

    def check(self, sample: Sample) -> None:
        """Refuses references that are neither yes nor no."""
        if reference(sample) not in WORDS:
            raise refusal(sample, f"its reference answer is {sample.answer!r}", "give Yes or No")


def reference(sample: Sample) -> str:
    """The reference answer in lower case."""
    return sample.answer.strip().lower()
