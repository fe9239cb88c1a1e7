"""Containment of a reference; OCRBench.

Liu et al., arXiv 2305.07895, ``OCRBench/example.py`` of Yuliang-Liu/MultimodalOCR: an answer is right if one of the
references is part of it, both in lower case, without outer space, and with line breaks as spaces. Formulas (data set
HME100k, the slice *Handwritten Mathematical Expression Recognition*) keep their case and lose all spaces. The final
score counts right answers of the 1 000 questions.
"""

from collections.abc import Callable, Sequence

from vispco.data.samples import Sample
from vispco.data.scorers.base import Scorer

FORMULAS = frozenset({"Handwritten Mathematical Expression Recognition", "HME100k"})
QUESTIONS = 1000


class Containment(Scorer):
    """1 if the answer contains a reference; an empty answer is wrong, and an empty reference is in none."""

    def score(self, prediction: str, sample: Sample) -> float:
        """0 or 1."""
        form = _formula if sample.slice in FORMULAS else _text
        return float(_contains(form, prediction, sample.references))

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """``final_score`` of 1 000; of a part of the benchmark, what the whole would have at that accuracy."""
        if not samples:
            return {}
        right = sum(map(self.score, predictions, samples))
        return {"final_score": QUESTIONS * right / len(samples)}


def _contains(form: Callable[[str], str], prediction: str, references: Sequence[str]) -> bool:
    said = form(prediction)
    return any(reference and reference in said for reference in map(form, references))


def _text(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
