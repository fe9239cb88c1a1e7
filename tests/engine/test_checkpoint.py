"""Checkpoints: opened like any other, told apart, refused with one line."""

import json

import pytest
import torch
from builders import build_tiny_llava

from vispco.embedded import MODELS
from vispco.engine import fingerprint, load_checkpoint, model_card
from vispco.engine.families import REGISTRY, describe
from vispco.errors import ModelError


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


def test_the_embedded_checkpoint_is_an_ordinary_folder(micro):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = MODELS["micro-llava"]
    theirs = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(theirs).__name__ == "LlavaForConditionalGeneration"
    assert AutoProcessor.from_pretrained(folder).chat_template
    ours = micro[0].state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.state_dict().items())
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * 2**20


def test_loading_freezes_and_pads_left(micro):
    model, processor = micro
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert processor.tokenizer.padding_side == "left"


def test_fingerprints_tell_models_apart(tiny_llava):
    same, other = build_tiny_llava(), build_tiny_llava(seed=1)
    other.load_state_dict(same.state_dict())
    assert fingerprint(same) == fingerprint(other)
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    assert fingerprint(same) != fingerprint(other)


def test_the_card(micro):
    card = model_card(micro[0], "micro-llava")
    assert (card.type, card.layers, card.name) == ("llava", 8, "micro-llava")
    assert card.fingerprint == fingerprint(micro[0])


def test_every_family_describes_a_model(tiny_llava):
    assert set(REGISTRY) == {"llava"}, "a new family needs a model here"
    family = describe(tiny_llava)
    assert len(family.layers) == 4
    assert family.visual_mask(torch.tensor([[9, 3]])).tolist() == [[True, False]]


def test_folders_without_a_vision_language_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no checkpoint here"):
        load_checkpoint(str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"'bert' is not supported; supported types: llava"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "ll')
    with pytest.raises(ModelError, match=r"cannot be used"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text((MODELS["micro-llava"] / "config.json").read_text())
    with pytest.raises(ModelError, match=r"cannot be opened"):
        load_checkpoint(str(tmp_path))


def test_unknown_number_formats_are_refused():
    with pytest.raises(ModelError, match=r"'int3' is unknown; choose one of float32"):
        load_checkpoint("micro-llava", dtype="int3")


def test_decoders_with_sliding_windows_are_refused(tiny_llava):
    text = tiny_llava.config.get_text_config()
    text.sliding_window = 8
    try:
        with pytest.raises(ModelError, match=r"full attention only"):
            describe(tiny_llava)
    finally:
        del text.sliding_window
