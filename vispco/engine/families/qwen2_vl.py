"""Qwen2-VL: any resolution, rotary positions in time, height and width (M-RoPE), which stay those of the full image."""

from vispco.engine.families.base import Adapter
from vispco.engine.families.layouts import measured

QWEN2_VL = Adapter(
    "Qwen2-VL",
    "Qwen2VLForConditionalGeneration",
    tokens=("image_token_id", "video_token_id"),
    note="M-RoPE positions are kept",
    layout=measured,
)
