"""InternVL: images cut into tiles, whose tokens follow each other without a separator."""

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedModel,
    Qwen2Config,
)

from vispco.testing.models.base import IMAGE, TEXT, TinyModel, Visuals, draw_sizes

TILES = (1, 3, 2)


def make_internvl() -> PreTrainedModel:
    """InternViT and Qwen2; the 64 patches of a tile become 16 tokens."""
    vision = InternVLVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=4
    )
    config = InternVLConfig(vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=IMAGE)
    return InternVLForConditionalGeneration(config)


def draw_images(count: int, generator: torch.Generator) -> Visuals:
    """Images of different numbers of tiles."""
    tiles = draw_sizes(TILES, count, generator)
    features = {"pixel_values": torch.randn(sum(tiles), 3, 32, 32, generator=generator)}
    return Visuals([[IMAGE] * (16 * number) for number in tiles], features)


VARIANTS = (TinyModel("internvl", "internvl", make_internvl, draw_images),)
