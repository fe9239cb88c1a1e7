"""Device maps: refused in one line where they cannot be met; a spread model is the same model."""

from types import SimpleNamespace

import accelerate
import pytest
import torch
from composing import build
from pretending import dispatch

from vispco.engine import checkpoint, fingerprint, load_checkpoint, placing
from vispco.engine.placing import check_device_map, device_of, stored_weights
from vispco.errors import ModelError


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("device_map", ["gpu", "cuda:", "cuda:x", "cuda:-1", "disk", "meta", "", "0"])
def test_unknown_device_maps_are_refused(device_map):
    with pytest.raises(ModelError, match=r"is unknown; choose cpu, cuda, cuda:0.*auto, balanced") as caught:
        load_checkpoint("micro-llava", device_map=device_map)
    assert f"model.device_map={device_map} " in str(caught.value)


@pytest.mark.usefixtures("two_devices")
def test_devices_that_are_there():
    assert [check_device_map(name) for name in ("cuda", "cuda:0", "cuda:1")] == ["cuda", "cuda:0", "cuda:1"]
    with pytest.raises(ModelError, match=r"model\.device_map=cuda:2: 2 CUDA devices are here"):
        check_device_map("cuda:2")


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ModelError, match=rf"model\.device_map={name}: 0 CUDA devices are here; choose cpu"):
            check_device_map(name)


def test_the_cpu_needs_nothing_and_all_else_needs_accelerate(monkeypatch):
    monkeypatch.setattr(placing, "find_spec", lambda name: None)
    assert check_device_map(None) is None
    assert check_device_map("cpu") is None
    with pytest.raises(ModelError, match=r"model\.device_map=auto needs accelerate; `pip install accelerate`"):
        check_device_map("auto")


@pytest.mark.usefixtures("two_devices")
def test_transformers_is_told(monkeypatch):
    told = {}

    def opened(folder, **how):
        told.update(how)
        raise RuntimeError("the device is pretended")

    monkeypatch.setattr(checkpoint.AutoModelForImageTextToText, "from_pretrained", opened)
    with pytest.raises(ModelError, match="pretended"):
        load_checkpoint("micro-llava", device_map="cuda:1")
    assert told["device_map"] == "cuda:1"


@pytest.mark.parametrize("device_map", ["auto", "sequential"])
def test_a_model_that_accelerate_placed_is_the_same(device_map):
    model, _ = load_checkpoint("micro-llava", device_map=device_map)
    assert fingerprint(model) == fingerprint(load_checkpoint("micro-llava")[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device_map", ["cuda", "auto"])
def test_a_model_on_a_device_is_the_same(device_map):
    model, _ = load_checkpoint("micro-llava", device_map=device_map)
    assert device_of(model).type == "cuda"
    assert fingerprint(model) == fingerprint(load_checkpoint("micro-llava")[0])


def test_weights_on_a_disk_are_found(tmp_path):
    stock, model = build("llava"), dispatch(build("llava"), "cpu", "cpu", "disk", offload_dir=str(tmp_path))
    assert any(value.device.type == "meta" for value in model.state_dict().values())
    assert fingerprint(model) == fingerprint(stock)
    for (name, ours), (stocks, value) in zip(stored_weights(model), stored_weights(stock), strict=True):
        assert name == stocks
        assert torch.equal(ours, value)


def test_inputs_go_where_the_model_runs():
    assert device_of(build("llava")) == torch.device("cpu")
    model = accelerate.cpu_offload(build("llava"), execution_device=torch.device("cpu"))
    assert model.device == torch.device("meta")
    assert device_of(model) == torch.device("cpu")
    hook = SimpleNamespace(execution_device="cuda:1")
    spread = SimpleNamespace(device=torch.device("cpu"), _hf_hook=hook)
    spread.get_input_embeddings = lambda: None
    assert device_of(spread) == torch.device("cuda:1")
