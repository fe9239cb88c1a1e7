"""Idefics3 and SmolVLM: images cut into tiles, with text between the tiles."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from vispco.testing.models.base import IMAGE, PAD, TEXT, TinyModel, Visuals, draw_sizes, draw_words

TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 4,
}  # fmt: skip
TOKENS: dict[str, Any] = {"image_token_id": IMAGE, "pad_token_id": PAD}
TILES = (1, 3)
"""The whole image alone, or two halves of it before the whole."""


def make_idefics3() -> PreTrainedModel:
    """Idefics3; the 64 patches of a tile become 16 tokens."""
    config = Idefics3Config(vision_config=dict(TOWER), text_config=LlamaConfig(**TEXT), **TOKENS)
    return Idefics3ForConditionalGeneration(config)


def make_smolvlm() -> PreTrainedModel:
    """SmolVLM; the 64 patches of a tile become 16 tokens."""
    config = SmolVLMConfig(vision_config=dict(TOWER), text_config=LlamaConfig(**TEXT), **TOKENS)
    return SmolVLMForConditionalGeneration(config)


def draw_images(count: int, generator: torch.Generator) -> Visuals:
    """Images of different numbers of tiles; two text tokens in front of each tile (border and place), one at the end.

    Pixels have shape (1, tiles, 3, height, width): a batch pads samples to the largest number of tiles with zeros,
    which the model takes away again.
    """
    tiles = draw_sizes(TILES, count, generator)
    spans = []
    for number in tiles:
        span: list[int] = []
        for _ in range(number):
            span += draw_words(2, generator) + [IMAGE] * 16
        spans.append(span + draw_words(1, generator))
    pixels = torch.randn(1, sum(tiles), 3, 32, 32, generator=generator)
    mask = torch.ones(1, sum(tiles), 32, 32, dtype=torch.long)
    return Visuals(spans, {"pixel_values": pixels, "pixel_attention_mask": mask})


def no_tiles() -> dict[str, Tensor]:
    """A sample without images has a row of its own among the pixels."""
    return {"pixel_values": torch.zeros(1, 0, 3, 32, 32), "pixel_attention_mask": torch.zeros(1, 0, 32, 32).long()}


VARIANTS = (
    TinyModel("idefics3", "idefics3", make_idefics3, draw_images, no_images=no_tiles),
    TinyModel("smolvlm", "smolvlm", make_smolvlm, draw_images, no_images=no_tiles),
)
