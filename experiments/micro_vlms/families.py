"""What is a model's own: its sizes, its tokenizer and processor, its visual features, its masks and positions.

Both see 80 x 80 pixels as 100 visual tokens, 10 x 10 of them, between two text tokens that open and close the image.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    SiglipVisionConfig,
)

from vispco.embedded import shapes
from vispco.engine.processing import images_only

SIDE = 10
"""Visual tokens per row and per column."""
VISUAL = SIDE * SIDE
PREFIX = VISUAL + 3
"""Tokens in front of every question: start, image opened, the image, image closed."""
SLOT = 10
"""Tokens per packed question: at most eight words, the answer marker and the answer."""

SHARED = ("<pad>", "<bos>", "<eos>", "<unk>")
TEMPLATE = (
    "<bos>{%% for message in messages %%}{%% for part in message['content'] %%}"
    "{%% if part['type'] == 'image' %%}%s {%% else %%}{{ part['text'] }} {%% endif %%}"
    "{%% endfor %%}{%% endfor %%}{%% if add_generation_prompt %%}<answer>{%% endif %%}"
)
NORMAL = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_convert_rgb": True}
TEXT: dict[str, Any] = {
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One model family: special tokens, and functions for what the training asks of it."""

    special: dict[str, str]
    """Special tokens by the attribute of the tokenizer that holds them."""
    around: tuple[str, str, str]
    """Attributes of the tokens that open, fill and close an image."""
    placeholder: str
    """What stands for an image in the chat template."""
    build: Any
    processor: Any
    features: Any
    visual: Any
    decode: Any
    tower: Any
    positions: bool
    """Whether the tower knows where a patch is."""
    video: dict[str, Any] | None = None
    """Settings of the processor's video part."""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        tokens = [*SHARED, *self.special.values(), "<answer>"]
        core = Tokenizer(
            models.WordLevel({word: n for n, word in enumerate([*tokens, *shapes.vocabulary()])}, unk_token="<unk>")
        )
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
            extra_special_tokens={**self.special, "answer_token": "<answer>"}, padding_side="left",
            clean_up_tokenization_spaces=False,
        )  # fmt: skip

    def save_processor(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write the processor; its video part too, which only torchvision can make and transformers then looks for."""
        self.processor(tokenizer).save_pretrained(folder)
        if self.video:
            path = folder / "processor_config.json"
            settings = json.loads(path.read_text())
            path.write_text(json.dumps({**settings, "video_processor": self.video}, indent=2, sort_keys=True) + "\n")

    @property
    def template(self) -> str:
        return TEMPLATE % self.placeholder

    def prefix(self, tokenizer: PreTrainedTokenizerFast) -> Tensor:
        """Token ids of what stands in front of a question, shape (103,)."""
        opened, image, closed = (tokenizer.convert_tokens_to_ids(self.special[key]) for key in self.around)
        return torch.tensor([1, opened, *[image] * VISUAL, closed])


@cache
def packed_mask(questions: int, bidirectional: bool) -> Tensor:
    """Boolean mask (1, 1, S, S): a question sees what is in front of all and itself; an image may see all of itself.

    Padding at the end of a question's slot needs no mask, since nothing real comes after it.
    """
    group = torch.cat([torch.full((PREFIX,), -1), torch.arange(questions).repeat_interleave(SLOT)])
    sees = torch.ones(len(group), len(group), dtype=torch.bool).tril()
    sees = sees & ((group[None] == -1) | (group[None] == group[:, None]))
    if bidirectional:
        sees[2 : 2 + VISUAL, 2 : 2 + VISUAL] = True
    return sees[None, None]


# --- Qwen2.5-VL ------------------------------------------------------------------------------------------------------

PATCH, MERGE = 4, 2


def build_qwen(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    # A window of 16 pixels is one cell of the grid; the second layer sees the whole image. Rotary frequencies are
    # spread for a grid of ten: with the base of a large model the width axis would hardly turn.
    vision = {
        "depth": 3, "hidden_size": 64, "intermediate_size": 192, "out_hidden_size": TEXT["hidden_size"],
        "num_heads": 4, "patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": MERGE,
        "window_size": shapes.CELL, "fullatt_block_indexes": [1],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 5.0, "mrope_section": [2, 5, 5]}
    find = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope}, vision_config=vision,
        image_token_id=find("<|image_pad|>"), video_token_id=find("<|video_pad|>"),
        vision_start_token_id=find("<|vision_start|>"), vision_end_token_id=find("<|vision_end|>"),
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen_patches(pixels: Tensor) -> Tensor:
    """Patches in the order of the image processor, merged ones together, shape (batch, 400, 96)."""
    batch = len(pixels)
    parts = pixels.reshape(batch, 3, SIDE, MERGE, PATCH, SIDE, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    frames = parts[:, :, :, :, :, :, None].expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return frames.reshape(batch, VISUAL * MERGE**2, -1)


@cache
def qwen_order() -> tuple[Tensor, Tensor, Tensor]:
    """Where the windowed order takes its patches from, shape (400,), and their places (height, width)."""
    token = torch.arange(VISUAL).reshape(SIDE // 2, 2, SIDE // 2, 2).transpose(1, 2).flatten()
    order = (token[:, None] * MERGE**2 + torch.arange(MERGE**2)).flatten()
    row = (order // 4 // SIDE) * MERGE + order % 4 // MERGE
    column = (order // 4 % SIDE) * MERGE + order % 4 % MERGE
    return order, torch.stack([row, column]), token.argsort()


def qwen_features(model: Qwen2_5_VLForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Output of the tower before its merger, shape (batch, 100, 4 x 64), row by row.

    The windows of a batch of equal images are attended to in one call instead of one after another.
    """
    tower = model.model.visual
    order, places, back = qwen_order()
    batch, count = len(pixels), len(order)
    hidden = (qwen_patches(pixels)[:, order] @ tower.patch_embed.proj.weight.flatten(1).T).reshape(batch * count, -1)
    cos, sin = (part.repeat(batch, 1)[:, None] for part in tower.rotary_pos_emb(hidden, places.T))
    for number, block in enumerate(tower.blocks):
        span = count if number in tower.fullatt_block_indexes else (shapes.CELL // PATCH) ** 2
        attention = block.attn
        query, key, value = (
            attention.qkv(block.norm1(hidden)).reshape(batch * count, 3, attention.num_heads, -1).unbind(1)
        )
        query, key = (_rotate(part, cos, sin) for part in (query, key))
        heads = [part.reshape(-1, span, *part.shape[1:]).transpose(1, 2) for part in (query, key, value)]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2)
        hidden = hidden + attention.proj(mixed.reshape(batch * count, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return hidden.reshape(batch, VISUAL, -1)[:, back]


def _rotate(part: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = part.shape[-1] // 2
    return part * cos + torch.cat([-part[..., half:], part[..., :half]], dim=-1) * sin


def qwen_visual(model: Qwen2_5_VLForConditionalGeneration, features: Tensor) -> Tensor:
    merger = model.model.visual.merger
    parts = features.unflatten(-1, (MERGE**2, -1))
    return merger.mlp(merger.ln_q(parts).flatten(2))


def qwen_decode(model: Qwen2_5_VLForConditionalGeneration, inputs: Tensor, questions: int) -> Tensor:
    """Rotary positions: the image has rows and columns from 2 on, every question goes on after the larger of them."""
    image = torch.arange(VISUAL)
    after = 2 + SIDE
    text = torch.cat([torch.tensor([after]), after + 1 + torch.arange(SLOT).repeat(questions)])
    axes = [
        torch.cat([torch.arange(2), 2 + axis, text])
        for axis in (torch.zeros_like(image), image // SIDE, image % SIDE)
    ]  # fmt: skip
    mask = {"full_attention": packed_mask(questions, bidirectional=False)}
    return model.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=torch.stack(axes)[:, None], use_cache=False
    ).last_hidden_state


FRAMES: dict[str, Any] = {
    "patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2,
    "size": {"shortest_edge": shapes.SIZE**2, "longest_edge": shapes.SIZE**2}, **NORMAL,
}  # fmt: skip


def qwen_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    return images_only(Qwen2_5_VLProcessor)(Qwen2VLImageProcessorPil(**FRAMES), tokenizer, chat_template=QWEN.template)


# --- Gemma 3 ---------------------------------------------------------------------------------------------------------


def build_gemma(tokenizer: PreTrainedTokenizerFast) -> Gemma3ForConditionalGeneration:
    vision = SiglipVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=shapes.SIZE,
        patch_size=8, vision_use_head=False,
    )  # fmt: skip
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
    }
    text = Gemma3TextConfig(
        **TEXT, vocab_size=len(tokenizer), head_dim=24, query_pre_attn_scalar=24, sliding_window=128,
        layer_types=["sliding_attention"] * 5 + ["full_attention"], rope_parameters=rope,
    )  # fmt: skip
    find = tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=VISUAL, boi_token_index=find("<start_of_image>"),
        image_token_index=find("<image_soft_token>"), eoi_token_index=find("<end_of_image>"),
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    # Made as zeros for a checkpoint to fill.
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.05)
    return model


def gemma_features(model: Gemma3ForConditionalGeneration, pixels: Tensor) -> Tensor:
    return model.model.vision_tower(pixels).last_hidden_state


def gemma_visual(model: Gemma3ForConditionalGeneration, features: Tensor) -> Tensor:
    return model.model.multi_modal_projector(features)


def gemma_decode(model: Gemma3ForConditionalGeneration, inputs: Tensor, questions: int) -> Tensor:
    """The image attends in both directions; the window of 128 tokens is longer than any prompt."""
    mask = packed_mask(questions, bidirectional=True)
    positions = torch.cat([torch.arange(PREFIX), PREFIX + torch.arange(SLOT).repeat(questions)])
    return model.model.language_model(
        inputs_embeds=inputs, attention_mask={"full_attention": mask, "sliding_attention": mask},
        position_ids=positions[None], use_cache=False,
    ).last_hidden_state  # fmt: skip


def gemma_processor(tokenizer: PreTrainedTokenizerFast) -> Gemma3Processor:
    images = Gemma3ImageProcessorPil(size={"height": shapes.SIZE, "width": shapes.SIZE}, **NORMAL)
    return Gemma3Processor(images, tokenizer, chat_template=GEMMA.template, image_seq_length=VISUAL)


QWEN = Family(
    special={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>",
             "vision_eos_token": "<|vision_end|>"},
    around=("vision_bos_token", "image_token", "vision_eos_token"),
    placeholder="<|vision_start|><|image_pad|><|vision_end|>",
    build=build_qwen, processor=qwen_processor, features=qwen_features, visual=qwen_visual, decode=qwen_decode,
    tower=lambda model: model.model.visual, positions=False,
    video={"video_processor_type": "Qwen2VLVideoProcessor", **FRAMES},
)  # fmt: skip
GEMMA = Family(
    special={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    around=("boi_token", "image_token", "eoi_token"),
    placeholder="<start_of_image>",
    build=build_gemma, processor=gemma_processor, features=gemma_features, visual=gemma_visual, decode=gemma_decode,
    tower=lambda model: model.model.vision_tower, positions=True,
)  # fmt: skip
FAMILIES = {"qwen2_5_vl": QWEN, "gemma3": GEMMA}
