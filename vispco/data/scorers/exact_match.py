"""Exact match with one of the references."""

from vispco.data.samples import Sample
from vispco.data.scorers.base import PerSample


class ExactMatch(PerSample):
    """1 if the texts are equal but for case, outer space and a final full stop; an empty answer is wrong."""

    def score(self, prediction: str, sample: Sample) -> float:
        """0 or 1."""
        said = _plain(prediction)
        return float(bool(said) and said in map(_plain, sample.references))


def _plain(text: str) -> str:
    return text.strip().rstrip(".").strip().casefold()
