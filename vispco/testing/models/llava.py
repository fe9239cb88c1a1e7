"""LLaVA 1.5, LLaVA-NeXT, LLaVA-OneVision and Video-LLaVA."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from vispco.testing.models.base import IMAGE, TEXT, VIDEO, TinyModel, Visuals, draw_sizes, draw_squares, join

TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TILE = 16
"""Side of a tile of the any-resolution models, in pixels; 4 x 4 patches."""

PINPOINTS = [[16, 16], [16, 32], [32, 16]]
SIZES = (((16, 32), 3, 52), ((32, 8), 3, 40), ((16, 16), 2, 36), ((8, 32), 3, 34), ((32, 16), 3, 56))
"""Any-resolution images: height and width, tiles, visual tokens.

The tokens are 16 of the base tile and, for each row of the unpadded grid of tiles, its patches and one newline: an
image of 8 x 32 pixels goes into two tiles side by side, where 2 of the 4 rows of 8 patches are left: 16 + 2 * (8 + 1).
"""


def make_llava() -> PreTrainedModel:
    """CLIP and Llama; 16 visual tokens per image."""
    vision = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=16, **TOWER)
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=IMAGE, vision_feature_layer=-1
    )
    return LlavaForConditionalGeneration(config)


def make_llava_next() -> PreTrainedModel:
    """CLIP and Mistral with full attention; images of any resolution."""
    vision = CLIPVisionConfig(image_size=TILE, patch_size=4, projection_dim=16, **TOWER)
    text = MistralConfig(sliding_window=None, **TEXT)
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextForConditionalGeneration(config)


def draw_tiles(tiles: Sequence[int], generator: torch.Generator) -> Tensor:
    """Pixels, shape (images, tiles, 3, height, width); images with fewer tiles are padded with zeros."""
    return join([torch.randn(1, count, 3, TILE, TILE, generator=generator) for count in tiles])


def draw_anyres(count: int, generator: torch.Generator) -> Visuals:
    """Images of different sizes."""
    sizes, tiles, tokens = zip(*draw_sizes(SIZES, count, generator), strict=True)
    features = {"pixel_values": draw_tiles(tiles, generator), "image_sizes": torch.tensor(sizes)}
    return Visuals([[IMAGE] * length for length in tokens], features)


def make_llava_onevision() -> PreTrainedModel:
    """Siglip and Qwen2; images of any resolution, videos."""
    vision = SiglipVisionConfig(image_size=TILE, patch_size=4, vision_use_head=False, **TOWER)
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaOnevisionForConditionalGeneration(config)


def draw_onevision(count: int, generator: torch.Generator) -> Visuals:
    """An image alone as in LLaVA-NeXT; of several images only the base tile is used, 16 tokens and a newline."""
    visuals = draw_anyres(count, generator)
    spans = visuals.spans if count == 1 else [[IMAGE] * 17] * count
    return Visuals(spans, {**visuals.features, "batch_num_images": torch.tensor([count])})


def draw_pooled_video(generator: torch.Generator) -> Visuals:
    """Four frames, pooled to 2 x 2 tokens each, and one newline."""
    pixels = torch.randn(1, 4, 3, TILE, TILE, generator=generator)
    return Visuals([[VIDEO] * 17], {"pixel_values_videos": pixels})


def make_video_llava() -> PreTrainedModel:
    """Two CLIP towers and Llama; images and videos."""
    vision = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=16, **TOWER)
    config = VideoLlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-1,
    )
    return VideoLlavaForConditionalGeneration(config)


def draw_video_llava(count: int, generator: torch.Generator) -> Visuals:
    """As :func:`draw_squares`; newer releases of transformers renamed the input."""
    visuals = draw_squares(count, generator)
    known = inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
    name = "pixel_values" if "pixel_values" in known else "pixel_values_images"
    return Visuals(visuals.spans, {name: visuals.features["pixel_values"]})


def draw_frames(generator: torch.Generator) -> Visuals:
    """Two frames, each with 16 patches and the class token."""
    return Visuals([[VIDEO] * 34], {"pixel_values_videos": torch.randn(1, 2, 3, 32, 32, generator=generator)})


VARIANTS = (
    TinyModel("llava", "llava", make_llava, draw_squares),
    TinyModel("llava_next", "llava_next", make_llava_next, draw_anyres),
    TinyModel("llava_onevision", "llava_onevision", make_llava_onevision, draw_onevision, draw_pooled_video),
    TinyModel("video_llava", "video_llava", make_video_llava, draw_video_llava, draw_frames),
)
