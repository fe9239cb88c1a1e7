"""LLaVA-OneVision: as LLaVA-NeXT, with several images and videos."""

from vispco.engine.families.base import Adapter, Tower
from vispco.engine.families.tiles import mosaic, packed_patches

LLAVA_ONEVISION = Adapter(
    "LLaVA-OneVision",
    "LlavaOnevisionForConditionalGeneration",
    tokens=("image_token_id", "video_token_id"),
    note="row ends count as visual tokens",
    tower=Tower(packed_patches),
    layout=mosaic,
)
