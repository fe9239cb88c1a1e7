"""Task scores of configurations on the same samples, side by side: slices, intervals, and what is lost."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from vispco.data import Sample, Scorer
from vispco.frontier import Interval, bootstrap_mean, paired_difference, paired_ratio


@dataclass(frozen=True)
class Assessed:
    """What one configuration answered.

    Attributes
    ----------
    answers : sequence of str
    scores : ndarray, shape (samples,)
        Official score of every answer, in 0..1.
    totals : dict of str to float
        Further official numbers of the benchmark.
    """

    answers: Sequence[str] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    totals: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, answers: Sequence[str], samples: Sequence[Sample], scorer: Scorer) -> "Assessed":
        """Answers with their scores."""
        scores = [scorer.score(text, sample) for text, sample in zip(answers, samples, strict=True)]
        return cls(answers, np.array(scores), scorer.totals(answers, samples))


class Assessment:
    """Configurations on the same samples, against the first of them: the unpruned model.

    Intervals are percentile bootstraps at level 0.95. Questions about the same picture are drawn together: they are no
    independent evidence.

    Parameters
    ----------
    samples : sequence of Sample
    assessed : dict of str to Assessed
        By name; the first is what changes are against.
    seed : int
        Of the draws.
    """

    def __init__(self, samples: Sequence[Sample], assessed: dict[str, Assessed], seed: int = 0):
        self.samples, self.assessed, self.seed = samples, assessed, seed
        self.baseline = next(iter(assessed.values()))

    @cached_property
    def slices(self) -> dict[str, list[int]]:
        """Indices of the samples of every slice, by name."""
        members: dict[str, list[int]] = defaultdict(list)
        for index, sample in enumerate(self.samples):
            members[sample.slice].append(index)
        return dict(sorted(members.items()))

    @cached_property
    def pictures(self) -> NDArray[np.str_] | None:
        """The picture of every sample; None if no two have the same."""
        digests = np.array([sample.picture.digest() for sample in self.samples])
        return None if len(np.unique(digests)) == len(digests) else digests

    def score(self, name: str, members: Sequence[int] | None = None) -> Interval:
        """Mean score over some samples, all if None."""
        index = self._index(members)
        return bootstrap_mean(self.assessed[name].scores[index], clusters=self._clusters(index), seed=self.seed)

    def change(self, name: str, members: Sequence[int] | None = None) -> Interval:
        """Mean score less the baseline's, paired by sample."""
        index = self._index(members)
        scores = self.assessed[name].scores[index], self.baseline.scores[index]
        return paired_difference(*scores, clusters=self._clusters(index), seed=self.seed)

    def retained(self, name: str) -> Interval | None:
        """Mean score as a fraction of the baseline's, paired by sample; None where the baseline scores nothing."""
        ratio = partial(paired_ratio, clusters=self.pictures, seed=self.seed)
        return ratio(self.assessed[name].scores, self.baseline.scores)

    def worst_slice(self, name: str) -> str:
        """The slice that loses most against the baseline."""
        return min(self.slices, key=lambda slice: self.change(name, self.slices[slice]).value)

    def _index(self, members: Sequence[int] | None) -> NDArray[np.intp]:
        return np.arange(len(self.samples)) if members is None else np.asarray(members, dtype=np.intp)

    def _clusters(self, index: NDArray[np.intp]) -> NDArray[np.str_] | None:
        return None if self.pictures is None else self.pictures[index]
