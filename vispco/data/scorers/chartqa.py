"""Relaxed accuracy; ChartQA.

Masry et al., arXiv 2203.10244, section 5.1, as ``relaxed_correctness`` of Pix2Struct (arXiv 2210.03347) made exact: if
both texts are numbers p and t, and t is not 0, the answer is right if ``|p - t| / |t| <= 0.05``. A text that ends with
``%`` is a hundredth of the number before it, so 5 and 5% are different answers. All else has to be the same text but
for case and outer space. Years are numbers like any other: 2010 is right where 2014 was asked for. Thousands with a
comma and amounts with a currency are texts.
"""

from vispco.data.samples import Sample
from vispco.data.scorers.base import PerSample

TOLERANCE = 0.05


class RelaxedAccuracy(PerSample):
    """1 if the answer is within 5 % of one of the references, or the same text; an empty answer is wrong."""

    def score(self, prediction: str, sample: Sample) -> float:
        """0 or 1."""
        said = prediction.strip()
        return float(bool(said) and any(_agrees(said, reference.strip()) for reference in sample.references))


def _agrees(said: str, target: str) -> bool:
    given, asked = _number(said), _number(target)
    if given is not None and asked:
        return abs(given - asked) / abs(asked) <= TOLERANCE
    return said.lower() == target.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
