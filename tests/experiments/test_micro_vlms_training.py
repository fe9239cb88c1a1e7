"""Training of the micro Qwen2.5-VL and Gemma 3: what it optimises is what the checkpoint answers, and it goes on."""

import importlib
import sys

import numpy as np
import pytest
import torch

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation.prompts import prepare

NAMES = {"qwen2_5_vl": "micro-qwen2.5-vl", "gemma3": "micro-gemma3"}


@pytest.fixture(scope="module")
def train():
    return importlib.import_module("experiments.micro_vlms.train")


@pytest.mark.parametrize("name", NAMES)
def test_packed_questions_have_the_logits_of_ordinary_prompts(train, name):
    """The questions share an image, yet each one's answer is scored as in a forward of its own."""
    model, processor = load_checkpoint(NAMES[name])
    family = train.FAMILIES[name]
    samples = load_samples("shapes", "validation", 8, seed=7)
    batch = prepare(processor, samples)
    expected = model(**batch.inputs).logits[torch.arange(8)[:, None], batch.rows]
    words = processor.tokenizer.get_vocab()
    ids = torch.zeros(8, 3, 10, dtype=torch.long)
    where = torch.zeros(8, 3, 10, dtype=torch.bool)
    for row in range(8):
        for place, asked in enumerate((samples[row - 1], samples[row], samples[row - 2])):
            tokens = [words[word] for word in [*asked.question.split(), "<answer>", asked.answer]]
            ids[row, place, : len(tokens)] = torch.tensor(tokens)
            where[row, place, len(tokens) - 2 : len(tokens)] = place == 1
    pixels = train.llava.to_pixels(np.stack([np.asarray(sample.image) for sample in samples]))
    with torch.no_grad():
        logits = train.answer_logits(family, model, family.prefix(processor.tokenizer), pixels, ids, where)
    torch.testing.assert_close(logits.reshape(expected.shape), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_script_rebuilds_the_shipped_tokenizer_and_sizes(train, name):
    family = train.FAMILIES[name]
    tokenizer = family.tokenizer()
    model, processor = load_checkpoint(NAMES[name])
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert processor.chat_template == family.template
    sizes = {key: value.shape for key, value in family.build(tokenizer).state_dict().items()}
    assert sizes == {key: value.shape for key, value in model.state_dict().items()}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_run_ends_with_the_same_weights(train, name, monkeypatch, tmp_path):
    monkeypatch.setattr(train.Trainee, "scores", lambda *args: {})

    def run(out):
        options = ["--vision-steps", "2", "--vision-batch", "1", "--steps", "3", "--batch", "1", "--save-every", "1"]
        monkeypatch.setattr(sys, "argv", ["train", "--model", name, "--out", str(out), "--places", "0.1", *options])
        train.main()

    run(tmp_path / "whole")
    save, calls = train.llava.save_state, []

    def save_and_stop(path, **state):
        save(path, **state)
        calls.append(state["step"])
        if len(calls) in (1, 4):
            raise Stopped

    monkeypatch.setattr(train.llava, "save_state", save_and_stop)
    for _ in range(2):
        with pytest.raises(Stopped):
            run(tmp_path / "stopped")
    run(tmp_path / "stopped")
    whole, stopped = (load_checkpoint(str(tmp_path / run / "checkpoint"))[0] for run in ("whole", "stopped"))
    theirs = stopped.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in whole.state_dict().items())
