"""Exact match with one of the references; GQA.

GQA (Hudson and Manning, arXiv 1902.09506, ``eval.py`` of the data set) gives 1 if the predicted string equals the
answer, which is lower case without punctuation. Answers of chat models are put into that form first, as LLaVA's
``convert_gqa_for_eval.py`` does: lower case, no final full stop.
"""

from vispco.data.samples import Sample
from vispco.data.scorers.base import PerSample


class ExactMatch(PerSample):
    """1 if the texts are equal but for case, outer space and final full stops; an empty answer is wrong."""

    def score(self, prediction: str, sample: Sample) -> float:
        """0 or 1."""
        said = plain(prediction)
        return float(bool(said) and said in map(plain, sample.references))


def plain(text: str) -> str:
    """The text without outer space, final full stops and case."""
    return text.strip().rstrip(".").strip().casefold()
