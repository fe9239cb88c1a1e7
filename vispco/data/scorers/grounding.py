"""Boxes by their overlap; RefCOCO, RefCOCO+ and RefCOCOg.

Yu et al., arXiv 1608.00272: a box is right if its intersection with the reference over their union is at least 0.5, as
the evaluations of Qwen-VL, lmms-eval and VLMEvalKit have it. A box is ``[x1, y1, x2, y2]`` or ``(x1,y1),(x2,y2)``:
left, top, right and bottom. An answer without a box, or with several different ones, is wrong. A box without area
overlaps nothing. Boxes are neither clipped to the picture nor turned round.
"""

import math
import re
from collections.abc import Sequence

from vispco.data.samples import Sample
from vispco.data.scorers.base import Scorer, refusal, share
from vispco.errors import ConfigError

THRESHOLD = 0.5

_NUMBER = r"\s*([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*"
_BOX = re.compile(
    rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]|\({_NUMBER},{_NUMBER}\)\s*(?:,\s*)?\({_NUMBER},{_NUMBER}\)"
)

Box = tuple[float, float, float, float]


class Grounding(Scorer):
    """1 if the box overlaps the reference by half.

    Parameters
    ----------
    scale : "pixel" or positive number
        What coordinates in answers run to at the right and the lower edge of the picture: its size in pixels as it is
        stored, or this number, such as 1 or 1000.
    reference_scale : "pixel" or positive number
        The same of references.

    Raises
    ------
    ConfigError
        If a scale is something else.
    """

    def __init__(self, scale: str | float = "pixel", reference_scale: str | float = "pixel"):
        for name, value in (("scale", scale), ("reference_scale", reference_scale)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value != "pixel" and not (number and 0 < float(value) < math.inf):
                raise ConfigError(f"data.scorer_params.{name} = {value!r}: give pixel, or a number such as 1 or 1000")
        self.scale, self.reference_scale = scale, reference_scale

    def score(self, prediction: str, sample: Sample) -> float:
        """0 or 1."""
        return float(self.overlap(prediction, sample) >= THRESHOLD)

    def totals(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """``mean_iou``, and ``unparsed``, the share of answers without a box or with several."""
        if not samples:
            return {}
        overlaps = [self.overlap(*pair) for pair in zip(predictions, samples, strict=True)]
        unparsed = share([read_box(prediction) is None for prediction in predictions])
        return {"mean_iou": sum(overlaps) / len(overlaps), "unparsed": unparsed}

    def check(self, sample: Sample) -> None:
        """Refuses references that are no box, or have no area."""
        box = read_box(sample.answer)
        if box is None or not _area(box):
            raise refusal(sample, f"its reference answer is {sample.answer!r}", "give [x1, y1, x2, y2] of a box")

    def overlap(self, prediction: str, sample: Sample) -> float:
        """Intersection over union, 0..1; 0 if either is no box."""
        said, true = read_box(prediction), read_box(sample.answer)
        if said is None or true is None:
            return 0.0
        if self.scale != self.reference_scale:
            said, true = _fractions(said, self.scale, sample), _fractions(true, self.reference_scale, sample)
        return iou(said, true)


def read_box(text: str) -> Box | None:
    """The one box in a text; None if there is none, or several."""
    boxes = {tuple(float(number) for number in found.groups() if number is not None) for found in _BOX.finditer(text)}
    if len(boxes) != 1:
        return None
    x1, y1, x2, y2 = boxes.pop()
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0..1; 0 if one of them has no area."""
    inner = _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    areas = _area(one), _area(other)
    return inner / (sum(areas) - inner) if inner and all(areas) else 0.0


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _fractions(box: Box, scale: str | float, sample: Sample) -> Box:
    width, height = sample.picture.size() if isinstance(scale, str) else (scale, scale)
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height
