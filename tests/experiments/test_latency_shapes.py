"""Shapes are those of the published checkpoints, and the prompts have the tokens that they say."""

import importlib
from pathlib import Path

import pytest
import torch

from vispco.cost import DecoderShape, sliding_windows
from vispco.engine.families import describe

ROOT = Path(__file__).parents[2]
NAMES = (
    "LLaVA-1.5-7B", "LLaVA-1.5-13B", "LLaVA-NeXT-7B", "Qwen2-VL-7B", "Qwen2.5-VL-3B", "Qwen2.5-VL-7B", "Gemma3-4B",
    "Video-LLaVA-7B",
)  # fmt: skip


@pytest.fixture
def shapes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.latency.shapes").SHAPES


def test_the_names_are_known(shapes):
    assert tuple(shapes) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_as_many_as_published(shapes, name):
    model = shapes[name].build("meta", torch.bfloat16)
    number = sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    if shapes[name].parameters is None:
        # Same decoder and tower as a shape whose number is published, or the number in the name.
        assert name in ("LLaVA-1.5-13B", "LLaVA-NeXT-7B", "Video-LLaVA-7B")
        assert number == pytest.approx(13e9 if "13B" in name else 7e9, rel=0.06)
    else:
        assert number == shapes[name].parameters


def test_llava_next_is_llava_with_a_newline(shapes):
    next_, llava = (
        sum(parameter.numel() for parameter in shapes[name].build("meta", torch.bfloat16).parameters())
        for name in ("LLaVA-NeXT-7B", "LLaVA-1.5-7B")
    )
    assert next_ == llava + 4096


@pytest.mark.parametrize(
    ("name", "visual"),
    zip(NAMES, (576, 576, 2928, 1280, 1280, 1280, 1280, 2056), strict=True),
)
def test_visual_tokens(shapes, name, visual):
    text, tokens, images, question = shapes[name].tokens
    assert (text, tokens, question) == (64, visual, 32)
    assert images == (5 if name == "Gemma3-4B" else 1)


def test_five_of_six_layers_of_gemma_have_a_window(shapes):
    windows = sliding_windows(shapes["Gemma3-4B"].config)
    assert len(windows) == 34
    assert windows[:6] == (1024,) * 5 + (None,)
    assert windows.count(None) == 5
    assert all(
        window is None for name in NAMES if name != "Gemma3-4B" for window in sliding_windows(shapes[name].config)
    )


@pytest.mark.parametrize("name", NAMES)
def test_small_models_run_and_have_the_tokens_that_they_say(shapes, name):
    small = shapes[name].reduced(3, 64, 150)
    model, inputs = small.build("cpu", torch.float32), small.inputs("cpu", torch.float32)
    text, visual, images, question = small.tokens
    there = describe(model).visual_mask(inputs["input_ids"])[0]
    assert int(there.sum()) == visual
    assert inputs["input_ids"].shape == (1, text + visual)
    assert int((there.int().diff(prepend=torch.zeros(1, dtype=torch.int)) == 1).sum()) == images
    assert not there[-question:].any()
    assert there[-question - 1]
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=1).logits
    assert logits.shape == (1, 1, model.config.get_text_config().vocab_size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_small_models_keep_the_proportions(shapes, name):
    whole, small = (DecoderShape.of(shape.config) for shape in (shapes[name], shapes[name].reduced(12, 512, 1024)))
    assert small.layers == 12
    assert small.hidden in (504, 512)
    assert small.heads // small.kv_heads == whole.heads // whole.kv_heads
    assert small.mlp / small.hidden == pytest.approx(whole.mlp / whole.hidden, rel=0.01)
    assert small.vocabulary / small.hidden == pytest.approx(whole.vocabulary / whole.hidden, rel=0.01)
    assert small.heads * small.head_dim / small.hidden == pytest.approx(
        whole.heads * whole.head_dim / whole.hidden, rel=0.1
    )
    visual = shapes[name].reduced(12, 512, 1024).tokens[1]
    assert visual == 576 if "1.5" in name else 900 < visual <= 1024
