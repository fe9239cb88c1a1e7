"""Video-LLaVA: two CLIP towers, one for images and one for frames, whose class tokens are visual tokens too."""

from vispco.engine.families.base import Adapter

VIDEO_LLAVA = Adapter(
    "Video-LLaVA",
    "VideoLlavaForConditionalGeneration",
    tokens=("image_token_id", "video_token_id"),
    note="a frame's class token counts as a visual token",
)
