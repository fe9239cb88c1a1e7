"""Checkpoints: opened like any other, told apart, refused with one line."""

import json
import shutil

import pytest
import torch
from builders import build_tiny_llava
from safetensors.torch import load_file, save_file
from transformers.utils import import_utils

from vispco.embedded import MODELS
from vispco.engine import fingerprint, load_checkpoint, model_card
from vispco.engine.families import describe
from vispco.errors import ModelError


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture
def copied(tmp_path):
    """A folder with the files of micro-llava, to be changed."""
    return shutil.copytree(MODELS["micro-llava"], tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))


def rewrite(path, **changes):
    """Change entries of a JSON file; None removes one."""
    entries = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in entries.items() if value is not None}))


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
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ModelError, match=r"cannot be used \(maximum recursion depth"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text((MODELS["micro-llava"] / "config.json").read_text())
    with pytest.raises(ModelError, match=r"cannot be opened"):
        load_checkpoint(str(tmp_path))


def test_unknown_number_formats_are_refused():
    with pytest.raises(ModelError, match=r"'int3' is unknown; choose one of float32"):
        load_checkpoint("micro-llava", dtype="int3")


def test_a_checkpoint_without_all_weights_is_refused(copied):
    """transformers would fill in random ones and say so in a log."""
    weights = load_file(copied / "model.safetensors")
    del weights["language_model.model.layers.3.mlp.up_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are not in the checkpoint.*layers\.3\.mlp\.up_proj"):
        load_checkpoint(str(copied))


def bring_code(folder):
    """Code in every place that transformers takes some from; gives the file that it would write."""
    marker = folder.parent / "code ran"
    names = {
        "AutoConfig": "Config", "AutoModelForImageTextToText": "Model", "AutoProcessor": "Processor",
        "AutoTokenizer": "Tokenizer", "AutoImageProcessor": "ImageProcessor",
    }  # fmt: skip
    (folder / "code.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n" + "".join(f"class {name}: ...\n" for name in names.values())
    )
    for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
        rewrite(folder / file, auto_map={auto: f"code.{name}" for auto, name in names.items()})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text((folder / "code.py").read_text())
    return marker


def test_code_of_a_checkpoint_never_runs(copied, micro):
    marker = bring_code(copied)
    model, processor = load_checkpoint(str(copied))
    assert (type(model), type(processor)) == tuple(map(type, micro))
    rewrite(copied / "config.json", model_type="new_vlm")
    with pytest.raises(ModelError, match="'new_vlm' is not supported"):
        load_checkpoint(str(copied))
    assert not marker.exists()


def test_pickled_weights_are_refused(copied):
    marker = copied.parent / "unpickled"
    (copied / "model.safetensors").unlink()
    torch.save({"weight": _Opened(marker)}, copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights.*convert them to safetensors"):
        load_checkpoint(str(copied))
    assert not marker.exists()


class _Opened:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_adapters_are_to_be_merged_first(copied):
    (copied / "adapter_config.json").write_text('{"base_model_name_or_path": "org/model"}')
    with pytest.raises(ModelError, match="merge_and_unload"):
        load_checkpoint(str(copied))


def test_a_checkpoint_without_a_whole_processor_is_refused(copied):
    (copied / "processor_config.json").unlink()
    with pytest.raises(ModelError, match=r"cannot be opened \("):
        load_checkpoint(str(copied))


def test_a_type_that_is_no_word_is_refused(tmp_path):
    for content, said in (
        ("[]", "cannot be used"),
        ("{}", "cannot be used"),
        ('{"model_type": ["llava"]}', "not supp"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=said):
            load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("sdpa2", "'sdpa2' is unknown; choose one of sdpa, eager, flash_attention_2"),
        ("kernels-community/flash-attn2", "is unknown"),
        ("flex_attention", "block masks"),
        ("flash_attention_2", "needs its flash-attn package and a CUDA device.*install it, or choose sdpa"),
    ],
)
def test_attention_backends_that_are_not_here_are_refused(backend, said, monkeypatch):
    """transformers would take the second for code on the hub, and fetch such code in place of the last."""
    monkeypatch.setattr(import_utils, "is_flash_attn_2_available", lambda: False)
    with pytest.raises(ModelError, match=said):
        load_checkpoint("micro-llava", attention=backend)


def test_the_embedded_weights_have_the_names_that_every_release_reads():
    """transformers 5.4 knows the vision tower by its nested name only, and would leave it random."""
    names = load_file(MODELS["micro-llava"] / "model.safetensors")
    tower = [name for name in names if "vision_tower" in name]
    assert tower
    assert all("vision_tower.vision_model." in name for name in tower)
