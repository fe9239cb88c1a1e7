"""Qwen2.5-VL: as Qwen2-VL for the decoder; the vision tower has windows, which pruning does not see."""

from vispco.engine.families.base import Adapter
from vispco.engine.families.layouts import measured

QWEN2_5_VL = Adapter(
    "Qwen2.5-VL",
    "Qwen2_5_VLForConditionalGeneration",
    tokens=("image_token_id", "video_token_id"),
    note="M-RoPE positions are kept",
    layout=measured,
)
