"""Tiny random models built from configuration, and batches for them."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE = 9
PAD = 0
VISUAL = 16


def build_tiny_llava(layers: int = 4, kv_heads: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0):
    """A LLaVA with 16 visual tokens per image; weights large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=80, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=kv_heads, max_position_embeddings=256, pad_token_id=PAD, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, vision_feature_layer=-1, image_seq_length=VISUAL
    )
    model = LlavaForConditionalGeneration(config).to(dtype).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5 if "embed" in name else 0.15)
    model.generation_config.eos_token_id = None
    return model


def build_batch(texts, images, padding="left", dtype=torch.float32, seed=1):
    """Batch of samples with ``texts[i]`` (before, after) text tokens around ``images[i]`` images."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for (before, after), count in zip(texts, images, strict=True):
        words = torch.randint(10, 64, (before + after,), generator=generator)
        rows.append(torch.cat([words[:before], torch.full((count * VISUAL,), IMAGE), words[before:]]))
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(width - len(row), None) if padding == "left" else slice(0, len(row))
        ids[index, where], mask[index, where] = row, 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if sum(images):
        batch["pixel_values"] = torch.randn(sum(images), 3, 32, 32, generator=generator).to(dtype)
    return batch
