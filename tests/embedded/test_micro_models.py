"""Micro Qwen2.5-VL and micro Gemma 3: ordinary checkpoints that answer shapes world and can be pruned."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from vispco.config import PruningConfig
from vispco.data import load_samples
from vispco.embedded import MODELS
from vispco.engine import load_checkpoint, model_card, prune
from vispco.evaluation.generation import generate_answers
from vispco.evaluation.prompts import prepare

STOCK = {"micro-qwen2.5-vl": "Qwen2_5_VLForConditionalGeneration", "micro-gemma3": "Gemma3ForConditionalGeneration"}


@pytest.fixture(scope="module", params=STOCK)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def micro(name):
    return load_checkpoint(name)


@pytest.fixture(scope="module")
def samples():
    return load_samples("shapes", "validation", 64)


def test_the_folder_opens_as_a_stock_class_with_all_weights(name, micro):
    theirs, loading = AutoModelForImageTextToText.from_pretrained(MODELS[name], output_loading_info=True)
    assert type(theirs).__name__ == STOCK[name]
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    ours = micro[0].state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.state_dict().items())


def test_the_folder_is_small(name):
    assert sum(file.stat().st_size for file in MODELS[name].iterdir()) <= 8 * 2**20


def test_an_image_is_a_hundred_tokens_between_its_marks(micro, samples):
    processor = micro[1]
    ids = prepare(processor, samples[:1]).inputs["input_ids"][0].tolist()
    words = processor.tokenizer.convert_ids_to_tokens(ids)
    image = processor.tokenizer.image_token
    assert words[2:102] == [image] * 100
    assert image not in (words[1], words[102])
    assert words[103:] == [*samples[0].question.split(), "<answer>", samples[0].answer]


def config(model, keep, selector="fastv"):
    return PruningConfig(model=model_card(model), selector=selector, keep=keep)


def test_it_answers_shapes_world(micro, samples):
    answers = generate_answers(*micro, samples, batch_size=32, max_new_tokens=4)
    right = [answer == sample.answer for answer, sample in zip(answers, samples, strict=True)]
    assert np.mean(right) >= 0.93


def test_keeping_all_changes_nothing(micro, samples):
    model, processor = micro
    inputs = prepare(processor, samples[:8]).inputs
    with torch.no_grad():
        stock = model(**inputs).logits
        with prune(model, config(model, (1.0,) * 6)):
            ours = model(**inputs).logits
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("selector", ["fastv", "random"])
def test_a_pruned_model_generates(micro, samples, selector):
    model, processor = micro
    keep = (1.0, 1.0, 0.5, 0.5, 0.1, 0.1)
    with prune(model, config(model, keep, selector)) as pruned:
        answers = generate_answers(model, processor, samples[:8], batch_size=8, max_new_tokens=4)
        assert pruned.kept_counts.T.tolist() == [[100, 100, 50, 50, 10, 10]] * 8
    words = {sample.answer for sample in load_samples("shapes", "validation", 256)}
    assert set(answers) <= words
