"""Models in the sizes that people run, from the values of their public config.json; nothing is loaded.

On the meta device a model has shapes and no numbers, which is enough to count. With random weights it can be timed:
time does not depend on them, and how many tokens leave is fixed by the schedule.

Sizes are right where a model has exactly as many parameters as its published checkpoint (:attr:`Shape.parameters`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    SiglipVisionConfig,
    VideoLlavaConfig,
)

VIDEO, IMAGE = 8, 9
"""Placeholders of visual tokens. Those of the checkpoints are other numbers, which changes nothing here."""

TEXT_TOKENS, QUESTION = 64, 32
"""Text tokens of a prompt, and how many of them come after the last image."""

FRAMES = 8
"""Of a video of Video-LLaVA."""

IMAGES = 5
"""Of a prompt of Gemma 3: one image and four crops of it, as pan and scan makes them, so that windows are exceeded."""

Features = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """A model, and the prompt that it is measured with.

    Attributes
    ----------
    name, checkpoint : str
        The checkpoint is the public one whose config.json the sizes are from.
    family : callable
        Configuration, visual tokens per image and features, from the following.
    text : dict
        Arguments of the decoder's configuration.
    vision : dict
        Arguments of the vision tower's configuration.
    grid : tuple of int
        Height and width of an image in visual tokens.
    parameters : int or None
        Of the published checkpoint; None where no public source with the exact number was found.
    images : int
        Blocks of visual tokens in the prompt.
    """

    name: str
    checkpoint: str
    family: Callable[["Shape"], tuple[Any, int, Callable[[], Features]]]
    text: dict[str, Any]
    vision: dict[str, Any]
    grid: tuple[int, int]
    parameters: int | None = None
    images: int = 1

    @property
    def config(self) -> Any:
        """Hugging Face configuration."""
        return self.family(self)[0]

    @property
    def tokens(self) -> tuple[int, int, int, int]:
        """Text and visual tokens of the prompt, images, and text tokens after the last image."""
        return TEXT_TOKENS, self.images * self.family(self)[1], self.images, QUESTION

    def build(self, device: str, dtype: torch.dtype) -> Any:
        """The model; on another device than meta its weights are random, of seed 0."""
        torch.manual_seed(0)
        with torch.device(device):
            return AutoModelForImageTextToText.from_config(self.config, dtype=dtype).eval().requires_grad_(False)

    def inputs(self, device: str, dtype: torch.dtype) -> Features:
        """The prompt as the model's forward takes it."""
        torch.manual_seed(0)
        config, length, features = self.family(self)
        placeholder = VIDEO if isinstance(config, VideoLlavaConfig) else IMAGE
        between = [10] * (TEXT_TOKENS // 16)
        row = [10] * (TEXT_TOKENS - QUESTION - len(between) * (self.images - 1)) + [placeholder] * length
        row += (between + [placeholder] * length) * (self.images - 1) + [11] * QUESTION
        ids = torch.tensor([row])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **features()}
        blocks = (ids == placeholder).long()
        if isinstance(config, Gemma3Config):
            inputs["token_type_ids"] = blocks
        if isinstance(config, (Qwen2VLConfig, Qwen2_5_VLConfig)):
            inputs["mm_token_type_ids"] = blocks
        return {key: value.to(device, dtype if value.is_floating_point() else None) for key, value in inputs.items()}

    def reduced(self, layers: int, hidden: int, tokens: int) -> "Shape":
        """The same decoder with fewer layers and a smaller width, and a vision tower of one narrow layer.

        MLP and vocabulary shrink with the width, so that they keep their share of the work. There are eight heads or
        so, in groups as large as they are. Of more than ``tokens`` visual tokens about as many are left, by smaller
        images; sliding windows shrink with them.
        """
        text = self.text
        # Eight heads or more, and whole groups of them.
        groups = max(1, round(8 / (text["num_attention_heads"] // text["num_key_value_heads"])))
        heads = groups * text["num_attention_heads"] // text["num_key_value_heads"]
        wide = text["head_dim"] * text["num_attention_heads"] / text["hidden_size"]
        width = hidden // heads // 8 * 8 * heads
        small = {
            **text, "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": groups, "head_dim": max(8, int(width * wide) // heads // 8 * 8),
            "intermediate_size": round(text["intermediate_size"] * width / text["hidden_size"] / 8) * 8,
            "vocab_size": round(text["vocab_size"] * width / text["hidden_size"]),
        }  # fmt: skip
        shrink = min(1.0, (tokens / self.tokens[1]) ** 0.5)
        if "sliding_window" in text:
            small["sliding_window"] = round(text["sliding_window"] * shrink**2)
        grid = (int(self.grid[0] * shrink), int(self.grid[1] * shrink))
        name = f"{self.name}: {layers} layers, {width} wide"
        return replace(self, name=name, text=small, vision=NARROW, grid=grid, parameters=None)


NARROW: dict[str, Any] = {"narrow": True}
"""Stands for a vision tower of one narrow layer with patches of 2 x 2 pixels."""


def _clip(shape: Shape) -> CLIPVisionConfig:
    side = shape.grid[0]
    if shape.vision is NARROW:
        return CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, projection_dim=16,
            image_size=2 * side, patch_size=2,
        )  # fmt: skip
    return CLIPVisionConfig(**shape.vision, image_size=14 * side, patch_size=14)


def _common(shape: Shape) -> dict[str, Any]:
    layer = -1 if shape.vision is NARROW else -2
    text = LlamaConfig(**shape.text)
    return {
        "vision_config": _clip(shape), "text_config": text, "image_token_index": IMAGE, "vision_feature_layer": layer
    }  # fmt: skip


def llava(shape: Shape) -> tuple[Any, int, Callable[[], Features]]:
    """LLaVA 1.5: one image."""
    config = LlavaConfig(**_common(shape))
    pixels = config.vision_config.image_size
    return config, shape.grid[0] ** 2, lambda: {"pixel_values": torch.randn(1, 3, pixels, pixels)}


def llava_next(shape: Shape) -> tuple[Any, int, Callable[[], Features]]:
    """LLaVA-NeXT: a square image in its largest form, one base tile and 2 x 2 others, with a newline per row."""
    common = _common(shape)
    pixels = common["vision_config"].image_size
    config = LlavaNextConfig(**common, image_grid_pinpoints=[[2 * pixels, 2 * pixels]])

    def features() -> Features:
        sizes = torch.tensor([[2 * pixels, 2 * pixels]])
        return {"pixel_values": torch.randn(1, 5, 3, pixels, pixels), "image_sizes": sizes}

    side = shape.grid[0]
    return config, 5 * side**2 + 2 * side, features


def video_llava(shape: Shape) -> tuple[Any, int, Callable[[], Features]]:
    """Video-LLaVA: a video, every frame with its class token."""
    config = VideoLlavaConfig(**_common(shape), video_token_index=VIDEO)
    pixels = config.vision_config.image_size
    tokens = FRAMES * (shape.grid[0] ** 2 + 1)
    return config, tokens, lambda: {"pixel_values_videos": torch.randn(1, FRAMES, 3, pixels, pixels)}


def _qwen(shape: Shape, kind: Callable[..., Any], narrow: dict[str, Any]) -> tuple[Any, int, Callable[[], Features]]:
    half = shape.text["head_dim"] // 2
    sections = [half // 4, (half - half // 4) // 2]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [*sections, half - sum(sections)]}
    vision = {"num_heads": 2, "patch_size": 2, **narrow} if shape.vision is NARROW else shape.vision
    config = kind(
        text_config={**shape.text, "rope_parameters": rope}, vision_config=vision, image_token_id=IMAGE,
        video_token_id=VIDEO, vision_start_token_id=VIDEO - 1, vision_end_token_id=VIDEO - 2,
        tie_word_embeddings=shape.text["tie_word_embeddings"],
    )  # fmt: skip
    height, width = shape.grid
    numbers = 3 * 2 * config.vision_config.patch_size**2

    def features() -> Features:
        grid = torch.tensor([[1, 2 * height, 2 * width]])
        return {"pixel_values": torch.randn(4 * height * width, numbers), "image_grid_thw": grid}

    return config, height * width, features


def qwen2_vl(shape: Shape) -> tuple[Any, int, Callable[[], Features]]:
    """Qwen2-VL: one image; a visual token merges 2 x 2 patches."""
    width = shape.text["hidden_size"]
    return _qwen(shape, Qwen2VLConfig, {"depth": 1, "embed_dim": 32, "hidden_size": width, "mlp_ratio": 1})


def qwen2_5_vl(shape: Shape) -> tuple[Any, int, Callable[[], Features]]:
    """Qwen2.5-VL: one image; a visual token merges 2 x 2 patches."""
    narrow = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "out_hidden_size": shape.text["hidden_size"],
        "fullatt_block_indexes": [], "window_size": 32,
    }  # fmt: skip
    return _qwen(shape, Qwen2_5_VLConfig, narrow)


def gemma3(shape: Shape) -> tuple[Any, int, Callable[[], Features]]:
    """Gemma 3: several images, whose patches are pooled; five of six layers have a sliding window."""
    side = shape.grid[0]
    narrow = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
        "image_size": 2 * side, "patch_size": 2,
    }  # fmt: skip
    vision = SiglipVisionConfig(**(narrow if shape.vision is NARROW else shape.vision), vision_use_head=False)
    config = Gemma3Config(
        vision_config=vision, text_config=Gemma3TextConfig(**shape.text), mm_tokens_per_image=side**2,
        image_token_index=IMAGE, boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    pixels = vision.image_size
    return config, side**2, lambda: {"pixel_values": torch.randn(shape.images, 3, pixels, pixels)}


def _decoder(layers: int, hidden: int, heads: int, kv_heads: int, mlp: int, words: int, **more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": mlp, "vocab_size": words, "head_dim": hidden // heads,
        "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **more,
    }  # fmt: skip


VICUNA_7B = _decoder(32, 4096, 32, 32, 11008, 32064)
VICUNA_13B = _decoder(40, 5120, 40, 40, 13824, 32064)
QWEN_7B = _decoder(28, 3584, 28, 4, 18944, 152064, tie_word_embeddings=False)
QWEN_3B = _decoder(36, 2048, 16, 2, 11008, 151936, tie_word_embeddings=True)
GEMMA_4B = _decoder(34, 2560, 8, 4, 10240, 262208, sliding_window=1024) | {"head_dim": 256}
CLIP_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "projection_dim": 768,
}  # fmt: skip
QWEN2_TOWER = {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14}
QWEN2_5_TOWER = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
SIGLIP = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 896, "patch_size": 14,
}  # fmt: skip

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("LLaVA-1.5-7B", "llava-hf/llava-1.5-7b-hf", llava, VICUNA_7B, CLIP_L, (24, 24), 7_063_427_072),
        Shape("LLaVA-1.5-13B", "llava-hf/llava-1.5-13b-hf", llava, VICUNA_13B, CLIP_L, (24, 24)),
        Shape("LLaVA-NeXT-7B", "llava-hf/llava-v1.6-vicuna-7b-hf", llava_next, VICUNA_7B, CLIP_L, (24, 24)),
        Shape("Qwen2-VL-7B", "Qwen/Qwen2-VL-7B-Instruct", qwen2_vl, QWEN_7B, QWEN2_TOWER, (32, 40), 8_291_375_616),
        Shape(
            "Qwen2.5-VL-3B", "Qwen/Qwen2.5-VL-3B-Instruct", qwen2_5_vl, QWEN_3B,
            {**QWEN2_5_TOWER, "out_hidden_size": 2048}, (32, 40), 3_754_622_976,
        ),
        Shape(
            "Qwen2.5-VL-7B", "Qwen/Qwen2.5-VL-7B-Instruct", qwen2_5_vl, QWEN_7B,
            {**QWEN2_5_TOWER, "out_hidden_size": 3584}, (32, 40), 8_292_166_656,
        ),
        Shape("Gemma3-4B", "google/gemma-3-4b-it", gemma3, GEMMA_4B, SIGLIP, (16, 16), 4_300_079_472, IMAGES),
        Shape("Video-LLaVA-7B", "LanguageBind/Video-LLaVA-7B-hf", video_llava, VICUNA_7B, CLIP_L, (16, 16)),
    )
}  # fmt: skip
"""Shapes by name."""
