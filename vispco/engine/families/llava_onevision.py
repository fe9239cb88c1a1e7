"""LLaVA-OneVision: as LLaVA-NeXT, with several images and videos."""

from vispco.engine.families.base import Adapter

LLAVA_ONEVISION = Adapter(
    "LLaVA-OneVision",
    "LlavaOnevisionForConditionalGeneration",
    tokens=("image_token_id", "video_token_id"),
    note="row ends count as visual tokens",
)
