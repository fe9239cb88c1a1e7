"""Visual tokens of a picture are those that the prompt gets."""

import pytest
from PIL import Image
from tables import picture, png_of_size

from vispco.data import Picture
from vispco.engine import load_checkpoint
from vispco.engine.families import describe
from vispco.errors import ModelError
from vispco.evaluation import prompt_text, token_counter

SIZES = [(80, 80), (40, 120), (120, 40), (33, 47), (200, 200), (20, 20)]


@pytest.mark.parametrize("name", ["micro-llava", "micro-gemma3", "micro-qwen2.5-vl"])
@pytest.mark.parametrize("told", [True, False], ids=["told by the processor", "processed"])
def test_tokens_are_those_of_the_prompt(name, told, monkeypatch):
    model, processor = load_checkpoint(name)
    family = describe(model)
    if name == "micro-qwen2.5-vl":  # whose own limits make all pictures 80 x 80
        processor.image_processor.size = {"shortest_edge": 400, "longest_edge": 40_000}

    def in_the_prompt(size):
        inputs = processor(text=[prompt_text(processor, "q")], images=[[Image.new("RGB", size)]], return_tensors="pt")
        return int(family.visual_mask(inputs["input_ids"]).sum())

    wanted = [in_the_prompt(size) for size in SIZES]
    if not told:
        monkeypatch.setattr(processor, "_get_num_multimodal_tokens", None, raising=False)
    count = token_counter(model, processor)
    assert [count(Picture(picture(size))) for size in SIZES] == wanted
    assert len(set(wanted)) == (5 if name == "micro-qwen2.5-vl" else 1)


def test_a_processor_that_tells_another_number_is_not_believed(monkeypatch):
    model, processor = load_checkpoint("micro-llava")
    told = []

    def wrong(self, image_sizes):
        told.append(image_sizes)
        return {"num_image_tokens": [7]}

    monkeypatch.setattr(type(processor), "_get_num_multimodal_tokens", wrong)
    assert token_counter(model, processor)(Picture(picture((80, 80)))) == 100
    assert len(told) == 1


def test_an_empty_picture_has_the_same_sides(monkeypatch):
    model, processor = load_checkpoint("micro-llava")
    monkeypatch.setattr(processor, "_get_num_multimodal_tokens", None, raising=False)
    count, new, made = token_counter(model, processor), Image.new, []
    monkeypatch.setattr(Image, "new", lambda mode, size, *rest: (made.append(size), new(mode, size, *rest))[1])
    count(Picture(png_of_size(120, 40)))
    assert made[0] == (120, 40)


def test_each_size_is_counted_once_and_pixels_are_not_needed(monkeypatch):
    model, processor = load_checkpoint("micro-qwen2.5-vl")
    asked = []
    tell = type(processor)._get_num_multimodal_tokens

    def counted(self, image_sizes):
        asked.append(image_sizes)
        return tell(self, image_sizes=image_sizes)

    monkeypatch.setattr(type(processor), "_get_num_multimodal_tokens", counted)
    count = token_counter(model, processor)
    assert count(Picture(png_of_size(120, 40))) == count(Picture(picture((120, 40))))
    assert asked[1:] == [[(40, 120)]]


def test_a_processor_without_visual_tokens(monkeypatch):
    model, processor = load_checkpoint("micro-llava")
    monkeypatch.setattr(type(describe(model)), "visual_mask", lambda self, ids: ids < 0)
    monkeypatch.setattr(processor, "_get_num_multimodal_tokens", None, raising=False)
    with pytest.raises(ModelError, match=r"no visual tokens of a picture; choose data\.sampling=area"):
        token_counter(model, processor)(Picture(picture()))
