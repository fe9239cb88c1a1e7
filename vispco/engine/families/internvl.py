"""InternVL (the converted checkpoints, ``-hf``): an InternViT tower and a Qwen2 decoder.

Tiles of an image follow each other without text between them, the whole picture last. How they lie in the image is not
told to the model, so that they stand below each other as parts of one picture.
"""

from typing import Any

from torch import Tensor

from vispco.engine.families.base import Adapter, Family, Pictures, Tower
from vispco.engine.families.layouts import squares


def shuffled_patches(family: Family, patches: Tensor, pictures: Pictures) -> Tensor:
    """Means of the patches that the pixel shuffle puts side by side."""
    side, width = round(patches.shape[1] ** 0.5), patches.shape[2]
    grid = patches.reshape(len(patches), side, side, width)
    base: Any = family.base
    shuffled: Tensor = base.pixel_shuffle(grid, scale_factor=family.model.config.downsample_ratio)
    return shuffled.reshape(-1, shuffled.shape[-1] // width, width).mean(dim=1)


def layout(family: Family, pictures: Pictures) -> Tensor:
    """A square per tile."""
    config = family.model.config
    side = config.vision_config.image_size[0] // config.vision_config.patch_size[0]
    return squares(family, pictures, int(side * config.downsample_ratio))


INTERNVL = Adapter(
    "InternVL",
    "InternVLForConditionalGeneration",
    note="frames are images",
    tower=Tower(shuffled_patches),
    layout=layout,
)
