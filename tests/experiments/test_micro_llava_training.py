"""The training script: a run that was stopped ends like one that was not, and with a checkpoint that opens."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vispco.embedded import MODELS
from vispco.engine import load_checkpoint

SCRIPT = Path(__file__).parents[2] / "experiments" / "micro_llava" / "train.py"


@pytest.fixture
def train(monkeypatch):
    spec = importlib.util.spec_from_file_location("train_micro_llava", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Accuracies are for the log; they take no part in the training.
    monkeypatch.setattr(module, "slice_accuracy", lambda *args: {})
    monkeypatch.setattr(module, "vision_accuracy", lambda *args: {})
    return module


def run(module, monkeypatch, out):
    options = ["--vision-steps", "3", "--steps", "4", "--batch", "2", "--save-every", "2"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(out), *options])
    module.main()


class Stopped(Exception):
    pass


def test_a_stopped_run_ends_with_the_same_weights(train, monkeypatch, tmp_path):
    run(train, monkeypatch, tmp_path / "whole")
    save, calls = train.save_state, []

    def save_and_stop(path, **state):
        save(path, **state)
        calls.append(state["step"])
        if len(calls) in (1, 3):
            raise Stopped

    monkeypatch.setattr(train, "save_state", save_and_stop)
    for _ in range(2):
        with pytest.raises(Stopped):
            run(train, monkeypatch, tmp_path / "stopped")
    run(train, monkeypatch, tmp_path / "stopped")
    whole, stopped = (load_checkpoint(str(tmp_path / name / "checkpoint"))[0] for name in ("whole", "stopped"))
    theirs = stopped.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in whole.state_dict().items())


def test_the_script_rebuilds_the_shipped_tokenizer_and_sizes(train):
    tokenizer = train.build_tokenizer()
    model, processor = load_checkpoint("micro-llava")
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    shapes = {name: value.shape for name, value in train.build_model(tokenizer).state_dict().items()}
    assert shapes == {name: value.shape for name, value in model.state_dict().items()}
    assert (MODELS["micro-llava"] / "chat_template.jinja").read_text() == train.CHAT_TEMPLATE
