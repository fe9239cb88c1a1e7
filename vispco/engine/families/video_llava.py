"""Video-LLaVA: two CLIP towers, one for images and one for frames, whose class tokens are visual tokens too."""

from torch import Tensor

from vispco.engine.families.base import Adapter, Family, Pictures, Tower
from vispco.engine.families.layouts import images_only, square_images


def image_patches(family: Family, patches: Tensor, pictures: Pictures) -> Tensor:
    """One visual token per patch of an image; frames go through another tower."""
    images_only(family, pictures)
    return patches.flatten(0, 1)


VIDEO_LLAVA = Adapter(
    "Video-LLaVA",
    "VideoLlavaForConditionalGeneration",
    tokens=("image_token_id", "video_token_id"),
    note="a frame's class token counts as a visual token",
    tower=Tower(image_patches, path="image_tower"),
    layout=square_images,
)
