"""Pictures are shown as the tower gets them, and every cell is the visual token that stands for it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from vispco.embedded import MODELS
from vispco.engine import load_checkpoint, seen_picture
from vispco.evaluation import prompt_text
from vispco.testing import MODELS as TINY
from vispco.testing.models.base import IMAGE


def noise(width, height):
    """Blocks of 8 x 8 pixels of one colour, which survive no resizing."""
    colors = np.random.default_rng(0).integers(0, 256, size=(height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(colors.repeat(8, axis=0).repeat(8, axis=1))


def look(name, image):
    model, processor = load_checkpoint(name)
    inputs = processor(text=prompt_text(processor, "what?"), images=image, return_tensors="pt")
    return seen_picture(model, processor, inputs)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_picture_of_the_model_s_own_size_is_itself(name):
    image = noise(80, 80)
    seen = look(name, image)
    assert np.array_equal(seen.pixels, np.asarray(image))
    assert np.array_equal(seen.tokens, np.arange(100).reshape(10, 10))


def test_a_wide_picture_is_cropped_as_the_tower_gets_it():
    """Its middle, at the height of 80: 160 x 80 pixels lose 40 columns on either side."""
    model, processor = load_checkpoint("micro-llava")
    options = processor.image_processor
    options.size, options.crop_size = {"shortest_edge": 80}, {"height": 80, "width": 80}
    options.do_center_crop, image = True, noise(160, 80)
    inputs = processor(text=prompt_text(processor, "what?"), images=image, return_tensors="pt")
    seen = seen_picture(model, processor, inputs)
    assert np.array_equal(seen.pixels, np.asarray(image)[:, 40:120])


def test_a_wide_picture_has_as_many_columns_as_its_patches():
    """Qwen keeps proportions: 160 x 40 pixels are 20 x 5 tokens of 8 x 8 pixels, none of them resized."""
    image = noise(160, 40)
    seen = look("micro-qwen2.5-vl", image)
    assert np.array_equal(seen.pixels, np.asarray(image))
    assert np.array_equal(seen.tokens, np.arange(100).reshape(5, 20))


def test_no_grid_without_a_picture():
    model, processor = load_checkpoint("micro-llava")
    inputs = processor(text="what?", return_tensors="pt")
    assert seen_picture(model, processor, inputs) is None


def test_of_tiles_the_whole_picture_is_shown():
    """LLaVA-NeXT sees 16 x 32 pixels as one small square of 4 x 4 tokens, the first ones, and cut into two tiles."""
    model = TINY["llava_next"].build()
    kind = getattr(transformers, "LlavaNextImageProcessorPil", transformers.LlavaNextImageProcessor)  # its older name
    options = kind(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, resample=Image.Resampling.NEAREST,
        image_grid_pinpoints=model.config.image_grid_pinpoints,
    )  # fmt: skip
    image = noise(32, 16)
    inputs = {**options(image, return_tensors="pt"), "input_ids": torch.tensor([[IMAGE] * 52])}
    seen = seen_picture(model, SimpleNamespace(image_processor=options), inputs)
    assert len(inputs["pixel_values"][0]) == 3
    assert np.array_equal(seen.pixels, np.asarray(image.resize((16, 16), Image.Resampling.NEAREST)))
    assert np.array_equal(seen.tokens, np.arange(16).reshape(4, 4))
