"""Visual tokens of pictures, without running the model."""

from functools import lru_cache
from typing import Any

from PIL import Image

from vispco.data import Measure, Picture
from vispco.engine.families import describe
from vispco.errors import ModelError
from vispco.evaluation.prompts import prompt_text


def token_counter(model: Any, processor: Any) -> Measure:
    """Counts the visual tokens of a picture, which depend on its size alone; each size is counted once.

    Most processors tell the number for a size. Those that cannot are given an empty picture of that size.

    Raises
    ------
    ModelError
        If the model cannot be pruned, or the processor has no chat template.
    """
    family, text = describe(model), prompt_text(processor, "")

    def by_processing(width: int, height: int) -> int:
        inputs = processor(text=[text], images=[[Image.new("RGB", (width, height))]], return_tensors="pt")
        return int(family.visual_mask(inputs["input_ids"]).sum())

    def by_size(width: int, height: int) -> int:
        return int(processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"][0])

    # It is no public method: what it says of one size, tall and narrow, has to be what the processor does.
    try:
        trusted = by_size(60, 90) == by_processing(60, 90)
    except (AttributeError, KeyError, TypeError):
        trusted = False
    count = lru_cache(maxsize=None)(by_size if trusted else by_processing)

    def tokens(picture: Picture) -> int:
        found = count(*picture.size())
        if found < 1:
            raise ModelError("the processor makes no visual tokens of a picture; choose data.sampling=area")
        return found

    return tokens
