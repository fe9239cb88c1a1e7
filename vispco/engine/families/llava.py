"""LLaVA 1.5: a CLIP tower, a projector and a Llama-like decoder."""

from torch import Tensor

from vispco.engine.families.base import Adapter, Family, Pictures, Tower
from vispco.engine.families.layouts import square_images


def every_patch(family: Family, patches: Tensor, pictures: Pictures) -> Tensor:
    """One visual token per patch."""
    return patches.flatten(0, 1)


LLAVA = Adapter("LLaVA-1.5", "LlavaForConditionalGeneration", tower=Tower(every_patch), layout=square_images)
