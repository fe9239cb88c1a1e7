"""Qwen3-VL: the vision tower adds to the first decoder layers too (DeepStack), at the tokens that are still there."""

from vispco.engine.families.base import Adapter
from vispco.engine.families.layouts import measured

QWEN3_VL = Adapter(
    "Qwen3-VL",
    "Qwen3VLForConditionalGeneration",
    tokens=("image_token_id", "video_token_id"),
    note="DeepStack features go to the tokens that are left",
    layout=measured,
)
