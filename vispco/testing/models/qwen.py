"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images and videos of any size, three-dimensional rotary positions."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from vispco.testing.models.base import IMAGE, TEXT, VIDEO, TinyModel, Visuals, draw_sizes, draw_words

GRIDS = ((6, 8), (8, 10), (6, 14), (10, 12), (12, 8))
"""Patches of an image, height and width; a visual token merges 2 x 2 of them: 12 to 30 tokens."""

PATCH = 3 * 2 * 4 * 4
"""Numbers in a patch: channels, the two frames of a temporal patch, height and width."""

TOWER: dict[str, Any] = {"num_heads": 2, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
START, END = 6, 7
"""Around an image or a video; up to transformers 5.16 beam search counts images by the first of them."""

TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def make_decoder() -> dict[str, Any]:
    """Arguments of the decoder; ``mrope_section`` shares half the head size between time, height and width."""
    return {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}}


def make_qwen2_vl() -> PreTrainedModel:
    """Qwen2-VL; in its vision configuration ``hidden_size`` is the width of the decoder."""
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": TEXT["hidden_size"], "mlp_ratio": 2, **TOWER}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=make_decoder(), vision_config=vision, **TOKENS))


def make_qwen2_5_vl() -> PreTrainedModel:
    """Qwen2.5-VL; the first layer of the vision tower has windows of 2 x 2 visual tokens, the second sees all."""
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": TEXT["hidden_size"],
        "window_size": 16, "fullatt_block_indexes": [1], **TOWER,
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=make_decoder(), vision_config=vision, **TOKENS)
    )


def make_qwen3_vl() -> PreTrainedModel:
    """Qwen3-VL; DeepStack adds features of the three layers of the vision tower after decoder layers 0, 1 and 2."""
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": TEXT["hidden_size"],
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2], **TOWER,
    }  # fmt: skip
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=make_decoder(), vision_config=vision, **TOKENS))


def draw_grids(count: int, generator: torch.Generator) -> Visuals:
    """Images of different sizes."""
    grids = draw_sizes(GRIDS, count, generator)
    patches = torch.randn(sum(height * width for height, width in grids), PATCH, generator=generator)
    features = {"pixel_values": patches, "image_grid_thw": torch.tensor([(1, *grid) for grid in grids])}
    return Visuals([[START] + [IMAGE] * (height * width // 4) + [END] for height, width in grids], features)


def draw_clip(generator: torch.Generator, timestamps: bool) -> Visuals:
    """Four frames, two temporal patches; ``timestamps`` are text in front of each, as Qwen3-VL wants them."""
    [(height, width)] = draw_sizes(GRIDS, 1, generator)
    frame = [VIDEO] * (height * width // 4)
    if timestamps:
        span = [token for _ in range(2) for token in (*draw_words(1, generator), START, *frame, END)]
    else:
        span = [START, *frame, *frame, END]
    patches = torch.randn(2 * height * width, PATCH, generator=generator)
    return Visuals([span], {"pixel_values_videos": patches, "video_grid_thw": torch.tensor([(2, height, width)])})


def modalities(input_ids: Tensor) -> dict[str, Tensor]:
    """Text is 0, images are 1, videos 2: rotary positions are computed from it."""
    return {"mm_token_type_ids": (input_ids == IMAGE).long() + 2 * (input_ids == VIDEO).long()}


VARIANTS = tuple(
    TinyModel(
        name,
        name,
        make,
        draw_grids,
        partial(draw_clip, timestamps=make is make_qwen3_vl),
        extras=modalities,
    )
    for name, make in {"qwen2_vl": make_qwen2_vl, "qwen2_5_vl": make_qwen2_5_vl, "qwen3_vl": make_qwen3_vl}.items()
)
