"""Random-weight models of a given decoder shape and one prompt for them; nothing is loaded.

What is measured is the language model, so every vision tower is one narrow layer that yields as many tokens as the
real one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    Qwen2_5_VLConfig,
)

IMAGE = 9
TEXT_TOKENS = 64
"""Text tokens of the prompt, half of them before the image and half after it."""


@dataclass(frozen=True)
class Decoder:
    """Sizes of a decoder with a gated MLP."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int

    def config(self) -> dict[str, int]:
        """Fields of a Hugging Face text configuration."""
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.mlp,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }


SMALL = Decoder(layers=8, hidden=256, heads=4, kv_heads=4, mlp=688, vocabulary=1024)
LLAMA_7B = Decoder(layers=32, hidden=4096, heads=32, kv_heads=32, mlp=11008, vocabulary=32064)
QWEN_7B = Decoder(layers=28, hidden=3584, heads=28, kv_heads=4, mlp=18944, vocabulary=152064)
TINY = Decoder(layers=8, hidden=64, heads=4, kv_heads=2, mlp=96, vocabulary=64)


class Parts(NamedTuple):
    """A model's configuration, how many visual tokens its prompt has, and the inputs that they come from."""

    config: Any
    visual_tokens: int
    features: dict[str, Tensor]


def _clip(side: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, projection_dim=16,
        image_size=2 * side, patch_size=2,
    )  # fmt: skip


def llava(decoder: Decoder, images: int, side: int) -> Parts:
    """LLaVA 1.5: ``images`` of ``side`` x ``side`` visual tokens each."""
    config = LlavaConfig(
        vision_config=_clip(side),
        text_config=LlamaConfig(**decoder.config()),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return Parts(config, images * side * side, {"pixel_values": torch.randn(images, 3, 2 * side, 2 * side)})


def llava_next(decoder: Decoder, side: int) -> Parts:
    """LLaVA-NeXT: a square image in its largest form, one base tile and 2 x 2 others, with a newline per row."""
    pixels = 2 * side
    config = LlavaNextConfig(
        vision_config=_clip(side),
        text_config=LlamaConfig(**decoder.config()),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        image_grid_pinpoints=[[2 * pixels, 2 * pixels]],
    )
    features = {
        "pixel_values": torch.randn(1, 5, 3, pixels, pixels),
        "image_sizes": torch.tensor([[2 * pixels, 2 * pixels]]),
    }
    return Parts(config, 5 * side * side + 2 * side, features)


def qwen2_5_vl(decoder: Decoder, height: int, width: int) -> Parts:
    """Qwen2.5-VL: one image of ``height`` x ``width`` visual tokens, each of 2 x 2 patches."""
    half = decoder.hidden // decoder.heads // 2
    sections = [half // 4, 3 * half // 8, 3 * half // 8]
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 2,
        "out_hidden_size": decoder.hidden, "fullatt_block_indexes": [], "window_size": 32,
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    config = Qwen2_5_VLConfig(
        text_config={**decoder.config(), "rope_parameters": rope},
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=IMAGE - 1,
        vision_start_token_id=IMAGE - 2,
        vision_end_token_id=IMAGE - 3,
    )
    features = {
        "pixel_values": torch.randn(4 * height * width, 3 * 2 * 2 * 2),
        "image_grid_thw": torch.tensor([[1, 2 * height, 2 * width]]),
        "mm_token_type_ids": (_prompt(height * width) == IMAGE).long(),
    }
    return Parts(config, height * width, features)


def _prompt(visual_tokens: int) -> Tensor:
    words = torch.arange(10, 10 + TEXT_TOKENS // 2)
    return torch.cat([words, torch.full((visual_tokens,), IMAGE), words])[None]


@dataclass(frozen=True)
class Workload:
    """A model and the prompt that it is measured with."""

    name: str
    parts: Callable[[], Parts]

    def build(self, device: str, dtype: torch.dtype) -> tuple[Any, dict[str, Tensor], int]:
        """The model on its device, the inputs of its forward, and the number of visual tokens."""
        torch.manual_seed(0)
        config, visual_tokens, features = self.parts()
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval().requires_grad_(False)
        prompt = _prompt(visual_tokens)
        inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), **features}
        moved = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}
        return model, moved, visual_tokens


@dataclass(frozen=True)
class Preset:
    """What is measured on which kind of device."""

    device: str
    dtype: torch.dtype
    workloads: tuple[Workload, ...]


def _three_families(llama: Decoder, qwen: Decoder, side: int, grid: tuple[int, int]) -> tuple[Workload, ...]:
    return (
        Workload("LLaVA-1.5", partial(llava, llama, images=1, side=side)),
        Workload("LLaVA-NeXT", partial(llava_next, llama, side=side)),
        Workload("Qwen2.5-VL", partial(qwen2_5_vl, qwen, *grid)),
    )


PRESETS = {
    "cpu": Preset(
        "cpu",
        torch.float32,
        tuple(
            Workload("LLaVA, 8 layers, 256 wide", partial(llava, SMALL, images, side))
            for images, side in ((1, 24), (1, 32), (5, 24))
        ),
    ),
    "gpu": Preset("cuda", torch.bfloat16, _three_families(LLAMA_7B, QWEN_7B, side=24, grid=(32, 40))),
    "rehearsal": Preset("cpu", torch.float32, _three_families(TINY, TINY, side=12, grid=(12, 16))),
}
"""``rehearsal`` is ``gpu`` in small: the same models and code paths, for a machine without a GPU."""
