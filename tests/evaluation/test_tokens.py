"""Visual tokens and the patches that they are made of."""

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image

from vispco.data import Picture, load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import VisualSize, kept_share, visual_sizes
from vispco.evaluation.tokens import patches_of
from vispco.testing.models import MODELS

# Patches per token, by the configurations of the checkpoints: Qwen merges 2 x 2 of them.
MICRO = {"micro-llava": 1, "micro-qwen2.5-vl": 4, "micro-gemma3": 1}


@pytest.mark.parametrize("name", MICRO)
def test_sizes_are_those_of_the_tower_and_the_decoder(name):
    model, processor = load_checkpoint(name)
    samples = load_samples("shapes", "test", 3)
    sizes = visual_sizes(model, processor, samples)
    assert len(sizes) == 3
    assert len(set(sizes)) == 1
    assert sizes[0].patches == MICRO[name] * sizes[0].tokens
    assert sizes[0].tokens > 30


def test_sizes_follow_each_picture():
    """Qwen2.5-VL takes pictures of any size; every sample has that of its own picture."""
    model, processor = load_checkpoint("micro-qwen2.5-vl")
    first, second, third = load_samples("shapes", "test", 3)
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    file = io.BytesIO()
    Image.new("RGB", (16 * side, 8 * side)).save(file, format="PNG")
    second = replace(second, picture=Picture(file.getvalue()))
    sizes = visual_sizes(model, processor, [first, second, third])
    assert sizes[1].patches == 4 * sizes[1].tokens
    assert sizes[0] == sizes[2] != sizes[1]


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "gemma3", "internvl", "idefics3", "paligemma"])
def test_patches_are_what_the_tower_embeds(name):
    """Counted by a hook on the patch embedding of the tower itself."""
    tiny = MODELS[name]
    model, inputs = tiny.build(), tiny.inputs(tiny_samples())
    tower = next(m for n, m in model.named_modules() if n.endswith(("vision_tower", "visual", "vision_model")))
    seen = []

    def count(module, args, output):
        seen.append(output.numel() // module.out_channels)

    embedding = next(m for m in tower.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d))
    handle = embedding.register_forward_hook(count)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    assert seen == [patches_of(model, inputs)]


def tiny_samples():
    from vispco.testing.models.base import Sample

    return [Sample(2, 1, 5, seed=1)]


def test_share_of_tokens_that_run():
    sizes = [VisualSize(10, 40), VisualSize(2, 8)]
    # Layer by layer: 10 + 2, 5 + 1, and 1 + 1, because a ratio above 0 keeps one.
    assert kept_share((1.0, 0.5, 0.01), sizes) == pytest.approx((12 + 6 + 2) / (3 * 12))
    assert kept_share((1.0, 0.0), sizes) == 0.5
