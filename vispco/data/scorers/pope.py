"""F1 of yes-or-no questions about objects; POPE.

Li et al., arXiv 2305.10355, ``evaluate.py`` of the benchmark: of the first sentence, without commas, an answer is *no*
if one of its words is ``No``, ``no`` or ``not``, and *yes* if not. Yes is the positive class of precision, recall and
F1. So whatever does not say no counts as yes, and the share of answers that say neither is reported as ``unparsed``. An
empty answer is neither here, and wrong. Words end at any white space, not only at spaces.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

from vispco.data.samples import Sample
from vispco.data.scorers.base import share
from vispco.data.scorers.yes_no import YesNo, reference

NO = frozenset({"No", "no", "not"})


class Pope(YesNo):
    """1 if the answer denies what is not there, or does not deny what is."""

    def read(self, prediction: str) -> str | None:
        """``no`` if it denies, None if it is empty."""
        if not prediction.strip():
            return None
        return "no" if NO.intersection(_words(prediction)) else "yes"

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """``precision``, ``recall``, ``f1``, ``yes_ratio``, ``unparsed``; and F1 of every setting that slices name.

        The settings are random, popular and adversarial; a question that belongs to several names them with commas.
        """
        if not samples:
            return {}
        settings: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
        answers = []
        for prediction, sample in zip(predictions, samples, strict=True):
            answers.append((self.read(prediction) == "yes", reference(sample) == "yes"))
            for setting in sample.slice.split(","):
                settings[setting.strip()].append(answers[-1])
        precision, recall, f1 = _indicators(answers)
        numbers = {"precision": precision, "recall": recall, "f1": f1, "yes_ratio": share([yes for yes, _ in answers])}
        numbers["unparsed"] = share([not _says(prediction) for prediction in predictions])
        if len(settings) > 1:
            numbers |= {f"f1_{setting}": _indicators(own)[2] for setting, own in sorted(settings.items())}
        return numbers


def _words(prediction: str) -> list[str]:
    return prediction.partition(".")[0].replace(",", "").split()


def _says(prediction: str) -> bool:
    """Whether it says yes or no in so many words."""
    return not NO.isdisjoint(_words(prediction)) or re.search(r"\byes\b", prediction, re.IGNORECASE) is not None


def _indicators(answers: Sequence[tuple[bool, bool]]) -> tuple[float, float, float]:
    """Precision, recall and F1 of (said yes, is yes); 0 where nothing is there to divide by."""
    hits = sum(said and true for said, true in answers)
    precision = share([true for said, true in answers if said])
    recall = share([said for said, true in answers if true])
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0
