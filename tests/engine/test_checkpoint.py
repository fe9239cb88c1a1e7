"""Checkpoints: opened like any other, told apart, refused with one line."""

import json

import pytest
import torch
from builders import build_tiny_llava
from safetensors.torch import load_file, save_file

from vispco.embedded import MODELS
from vispco.engine import fingerprint, load_checkpoint, model_card
from vispco.engine.families import describe
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


def test_a_family_finds_its_visual_tokens(tiny_llava):
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


def test_a_checkpoint_without_all_weights_is_refused(tmp_path):
    """transformers would fill in random ones and say so in a log."""
    for file in MODELS["micro-llava"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["language_model.model.layers.3.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are not in the checkpoint.*layers\.3\.mlp\.up_proj"):
        load_checkpoint(str(tmp_path))


def test_the_embedded_weights_have_the_names_that_every_release_reads():
    """transformers 5.4 knows the vision tower by its nested name only, and would leave it random."""
    names = load_file(MODELS["micro-llava"] / "model.safetensors")
    tower = [name for name in names if "vision_tower" in name]
    assert tower
    assert all("vision_tower.vision_model." in name for name in tower)
