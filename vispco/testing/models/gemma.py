"""Gemma 3, PaliGemma and PaliGemma 2: image blocks or whole prompts that attend in both directions."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionConfig,
)

from vispco.testing.models.base import IMAGE, TEXT, TinyModel, draw_squares

WINDOW = 8
"""Of sliding layers: half the visual tokens of an image."""

SCALE: dict[str, Any] = {"query_pre_attn_scalar": TEXT["head_dim"]}
# The default, 256, would make attention nearly uniform.


def make_tower(patch_size: int) -> SiglipVisionConfig:
    """Siglip for images of 32 x 32 pixels."""
    return SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32,
        patch_size=patch_size, vision_use_head=False,
    )  # fmt: skip


def make_gemma3() -> PreTrainedModel:
    """Gemma 3; 64 patches are pooled to 16 tokens. Layers 2 and 5 have full attention, the others a sliding window."""
    layers = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    text = Gemma3TextConfig(**{**TEXT, "num_hidden_layers": 6}, **SCALE, sliding_window=WINDOW, layer_types=layers)
    config = Gemma3Config(
        vision_config=make_tower(patch_size=4), text_config=text, mm_tokens_per_image=16, image_token_index=IMAGE,
        boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config)


def make_paligemma(text: Any) -> PreTrainedModel:
    """A PaliGemma around the decoder ``text``."""
    size = TEXT["hidden_size"]
    config = PaliGemmaConfig(
        vision_config=make_tower(patch_size=8), text_config=text, image_token_index=IMAGE, projection_dim=size,
        hidden_size=size, vocab_size=TEXT["vocab_size"],
    )  # fmt: skip
    return PaliGemmaForConditionalGeneration(config)


def make_paligemma1() -> PreTrainedModel:
    """Siglip and Gemma."""
    return make_paligemma(GemmaConfig(**TEXT))


def make_paligemma2() -> PreTrainedModel:
    """Siglip and Gemma 2, whose soft cap only eager attention knows; layers 0 and 2 have a sliding window."""
    return make_paligemma(Gemma2Config(**TEXT, **SCALE, sliding_window=WINDOW))


def image_blocks(input_ids: Tensor) -> dict[str, Tensor]:
    """1 at images, which attend in both directions."""
    return {"token_type_ids": (input_ids == IMAGE).long()}


def prefix(input_ids: Tensor) -> dict[str, Tensor]:
    """0 all over: the prompt is a prefix that attends in both directions; 1 would be the answer."""
    return {"token_type_ids": torch.zeros_like(input_ids)}


VARIANTS = (
    TinyModel("gemma3", "gemma3", make_gemma3, draw_squares, extras=image_blocks),
    TinyModel("paligemma", "paligemma", make_paligemma1, draw_squares, extras=prefix),
    TinyModel("paligemma2", "paligemma", make_paligemma2, draw_squares, extras=prefix, backends=("eager",)),
)
