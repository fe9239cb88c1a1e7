"""What the model's processor cannot take is refused by the sample's name, wherever samples are encoded."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tables import picture

from vispco.cli.bench import _batches
from vispco.data import Picture, load_samples
from vispco.data import samples as limits
from vispco.engine import load_checkpoint
from vispco.errors import DataError
from vispco.evaluation import encode_samples, generate_answers, prepare, prompt_sizes, visual_sizes

STANDS = {"micro-llava": ["<image>"], "micro-qwen2.5-vl": ["<|image_pad|>", "<|video_pad|>"],
          "micro-gemma3": ["<start_of_image>", "<image_soft_token>"]}  # fmt: skip


@pytest.fixture(scope="module")
def qwen():
    return load_checkpoint("micro-qwen2.5-vl")


@pytest.fixture
def samples():
    """Three, of which the second one's picture is too narrow for the processor of Qwen."""
    good = load_samples("shapes", "test", 3)
    return [good[0], replace(good[1], index="narrow", picture=Picture(picture((1, 250)))), good[2]]


ENCODERS = {
    "prepare": lambda model, processor, samples: prepare(processor, samples),
    "sizes of prompts": prompt_sizes,
    "sizes of pictures": visual_sizes,
    "answers": lambda *given: generate_answers(*given, batch_size=3, max_new_tokens=1),
    "bench": lambda *given: _batches(*given, 3),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_picture_that_the_processor_refuses(name, qwen, samples, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ASPECT", 10**6)  # tables of ours refuse it before
    with pytest.raises(DataError) as caught:
        ENCODERS[name](*qwen, samples)
    line = str(caught.value)
    assert line.startswith("sample narrow, whose picture has 1 x 250 pixels, is refused by the model's processor (")
    assert line.endswith("); mend it or leave it out")
    assert "aspect ratio" in line


def test_what_is_nobodys_fault_is_not_blamed_on_a_sample(qwen, samples):
    def processor(text, images, **options):
        if len(images) > 1:
            raise ValueError("together they do not fit")
        return qwen[1](text=text, images=images, **options)

    processor.tokenizer, processor.apply_chat_template = qwen[1].tokenizer, qwen[1].apply_chat_template
    with pytest.raises(ValueError, match="together they do not fit"):
        encode_samples(processor, [samples[0], samples[2]])


@pytest.mark.parametrize(("name", "token"), [(name, token) for name in STANDS for token in STANDS[name]])
@pytest.mark.parametrize("field", ["question", "answer"])
def test_words_that_stand_for_pictures(name, token, field, samples):
    """In LLaVA's own tables questions begin with one; the model would look for a second picture."""
    _, processor = load_checkpoint(name)
    odd = replace(samples[2], index="odd", **{field: f"{token} what ?"})
    with pytest.raises(DataError) as caught:
        prepare(processor, [samples[0], odd])
    assert str(caught.value) == (
        f"sample odd: {token!r} in its {field} stands for a picture in this model's prompts; take it out of the text"
    )


def test_words_of_other_models_are_words(qwen, samples):
    model, processor = qwen
    with torch.no_grad():
        batch = prepare(processor, [replace(samples[0], question="<image> what ?")])
        assert model(**batch.inputs).logits.isfinite().all()


def test_narrow_pictures_that_tables_let_pass_are_taken(qwen):
    for size in ((1, 200), (200, 1), (1, 1), (3, 3)):
        sample = replace(load_samples("shapes", "test", 1)[0], picture=Picture(picture(size)))
        assert sample.image.size == Image.open(sample.picture.open().fp).size == size
        assert encode_samples(qwen[1], [sample])["input_ids"].shape[0] == 1
