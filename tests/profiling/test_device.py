"""What pruning promises on a GPU: the protocol repeats itself, and long prompts take less memory and time."""

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from vispco import ModelCard, PruningConfig
from vispco.profiling import bench

on_a_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def long_prompt(images, side, width, layers, device, dtype):
    """A LLaVA with random weights, and a prompt of ``images`` pictures of side x side visual tokens each."""
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=14 * side,
        patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=width // 16,
        vocab_size=64, max_position_embeddings=16384,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=5, vision_feature_layer=-1)
    )
    ids = torch.tensor([[1, *[5] * (images * side * side), 7, 8, 9]], device=device)
    pixels = torch.randn(images, 3, 14 * side, 14 * side, device=device, dtype=dtype)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return model.to(device, dtype).eval().requires_grad_(False), inputs


def halved(layers):
    """Half of the tokens from layer 2 on, chosen by attention."""
    keep = (1.0,) * 2 + (0.5,) * (layers - 2)
    return PruningConfig(selector="fastv", keep=keep, model=ModelCard(type="llava", layers=layers))


def test_the_prompt_is_as_long_as_it_says():
    model, inputs = long_prompt(2, 4, 32, 3, "cpu", torch.float32)
    found = bench(model, [inputs], halved(3), new_tokens=1, rounds=1, warm_up=0)
    assert found.protocol["prompt_tokens"] == [2 * 16 + 4]
    assert found.kv.ratio.value == pytest.approx((36 + 36 + 20) / (3 * 36))


@pytest.mark.gpu
@on_a_device
def test_the_same_twice_is_within_three_percent():
    model, inputs = long_prompt(2, 32, 1024, 12, "cuda", torch.bfloat16)
    found = bench(model, [inputs], halved(12), new_tokens=8, rounds=20, warm_up=5)
    assert abs(found.noise["first"].value - 1) < 0.03
    assert abs(found.noise["decode"].value - 1) < 0.03
    assert abs(found.drift - 1) < 0.05


@pytest.mark.gpu
@on_a_device
@pytest.mark.parametrize("images", [2, 8])
def test_half_of_the_tokens_take_less_memory_and_time(images):
    """Of 2048 and of 8192 visual tokens."""
    model, inputs = long_prompt(images, 32, 1024, 12, "cuda", torch.bfloat16)
    found = bench(model, [inputs], halved(12), new_tokens=2, rounds=20, warm_up=5)
    assert found.peak.pruned < found.peak.stock
    assert found.first.ratio.high < 1
    assert found.selector.share.value < 0.03
