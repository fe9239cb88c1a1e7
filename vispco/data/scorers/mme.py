"""Accuracy and accuracy+ of yes-or-no questions in pairs; MME.

Fu et al., arXiv 2306.13394, ``calculation.py`` of the benchmark's ``eval_tool``: an answer is *yes* if its first four
characters contain ``yes`` in any case, else *no* if they contain ``no``, else neither, which is wrong. Each picture of
a subtask has two questions. Accuracy+ is the share of pictures with both of them right, the score of a subtask is
``100 (accuracy + accuracy+)``, perception is the sum over ten subtasks (of 2 000), cognition over four (of 800).
The score of a sample, whose mean is what retention is of, is plain accuracy.
"""

from collections import defaultdict
from collections.abc import Sequence

from vispco.data.samples import Sample
from vispco.data.scorers.base import share
from vispco.data.scorers.yes_no import WORDS, YesNo

GROUPS = {
    "perception": (
        "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}  # fmt: skip


class Mme(YesNo):
    """1 if the answer starts as the reference does."""

    def read(self, prediction: str) -> str | None:
        """Of the first four characters, outer space left out."""
        start = prediction.strip()[:4].lower()
        return next((word for word in WORDS if word in start), None)

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """``accuracy_plus``, ``unparsed``, and perception and cognition where all subtasks of theirs are there.

        Pairs are questions of one slice about one picture, in the order of the samples; what lacks its other half, as
        a part of the benchmark may, counts for accuracy alone.
        """
        right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for prediction, sample in zip(predictions, samples, strict=True):
            right[sample.slice][sample.picture.digest()].append(self.score(prediction, sample) == 1.0)
        plus = {name: _pairs(pictures) for name, pictures in right.items()}
        worth = {
            name: 100 * (share([each for flags in pictures.values() for each in flags]) + share(plus[name]))
            for name, pictures in right.items()
            if plus[name]
        }
        numbers = {}
        if worth:
            numbers["accuracy_plus"] = share([both for pairs in plus.values() for both in pairs])
        for group, subtasks in GROUPS.items():
            if worth.keys() >= set(subtasks):
                numbers[group] = sum(worth[name] for name in subtasks)
        if predictions:
            numbers["unparsed"] = share([self.read(prediction) is None for prediction in predictions])
        return numbers


def _pairs(pictures: dict[str, list[bool]]) -> list[bool]:
    """Whether both answers are right, of each two questions about a picture."""
    return [
        first and second
        for flags in pictures.values()
        for first, second in zip(flags[::2], flags[1::2], strict=False)
    ]  # fmt: skip
