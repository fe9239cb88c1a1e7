"""Processors that also take videos: opened for images where torchvision is missing, as ever where it is not."""

import json
import shutil

import pytest
import torch
from transformers.utils.import_utils import is_torchvision_available
from transformers.video_processing_utils import BaseVideoProcessor

from vispco.data import load_samples
from vispco.embedded import MODELS
from vispco.engine import load_checkpoint, processing
from vispco.evaluation.prompts import prepare

QWEN = MODELS["micro-qwen2.5-vl"]

without_torchvision = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")


@without_torchvision
def test_what_it_saves_opens_again_with_the_same_prompts(tmp_path):
    processor = load_checkpoint("micro-qwen2.5-vl")[1]
    processor.save_pretrained(tmp_path)
    shutil.copy(QWEN / "config.json", tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "Qwen2_5_VLProcessor"
    samples = load_samples("shapes", "validation", 4)
    first, second = (prepare(one, samples).inputs for one in (processor, processing.open_processor(tmp_path)))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@without_torchvision
def test_only_the_video_part_is_left_out():
    processor = processing.open_processor(QWEN)
    assert processor.get_attributes() == ["image_processor", "tokenizer"]
    assert not hasattr(processor, "video_processor")


def test_with_torchvision_a_processor_opens_as_a_whole(monkeypatch):
    monkeypatch.setattr(processing, "is_torchvision_available", lambda: True)
    monkeypatch.setattr(processing.AutoProcessor, "from_pretrained", lambda folder, **settings: (folder, settings))
    assert processing.open_processor(QWEN) == (QWEN, {"local_files_only": True, "trust_remote_code": False})


def test_the_folder_has_what_torchvision_looks_for():
    settings, _ = BaseVideoProcessor.get_video_processor_dict(QWEN)
    images = json.loads((QWEN / "processor_config.json").read_text())["image_processor"]
    assert settings["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert all(settings[key] == images[key] for key in ("patch_size", "merge_size", "temporal_patch_size", "size"))
