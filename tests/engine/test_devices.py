"""Layers spread over devices, fetched from the CPU or from a disk when they run."""

import accelerate
import pytest
import torch
from composing import build, case_of, check_equal, check_same, families, plain, run, run_pruned, stock
from pretending import Devices, dispatch

from vispco import prune
from vispco.engine import Replay, observed_attention
from vispco.selectors import make_selector
from vispco.testing.conformance import SINGLE
from vispco.testing.models import RAGGED


def test_pretended_devices_do_not_mix():
    with Devices():
        here, there = torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")
        assert here.device == torch.device("cuda:0")
        assert (here + here.sum()).device == here.device
        assert (here + there.to(here.device)).tolist() == [2, 2, 2]
        assert here[torch.tensor([1])].device == here.device
        assert here.new_zeros(3).device == here.device
        for wrong in (lambda: here + there, lambda: here + torch.ones(3), lambda: torch.ones(3)[here.long()]):
            with pytest.raises(RuntimeError, match="of tensors on"):
                wrong()


@families
@pytest.mark.parametrize("others", [("cuda:1", "cuda:0"), ("cuda:1", "cpu")])
@pytest.mark.parametrize(("inputs_at", "samples"), [("cpu", RAGGED), ("cuda:0", SINGLE)])
def test_layers_on_several_devices(family, others, inputs_at, samples):
    """Layers on another device than the embeddings, or fetched from the CPU when they run; with padding or without."""
    case = case_of(family, samples)
    with torch.no_grad(), Devices():
        model = dispatch(build(family), "cuda:0", *others)
        ours = run_pruned(model, case, {name: value.to(inputs_at) for name, value in case.inputs.items()})
        assert ours[0].device == torch.device(inputs_at)
        ours = [value.cpu() for value in ours]
    check_same(ours, plain(family, samples))


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.filterwarnings("ignore:.*targets follow dropped tokens")
def test_labels_on_another_device(spread):
    """accelerate moves all inputs to the main device, the loss moves labels; lost targets are left out all the same."""
    case, device = case_of("llava"), torch.device("cuda:0")
    labels = case.inputs["input_ids"]
    with torch.no_grad(), prune(plain_model := build("llava"), case.config()):
        expected = plain_model(**case.inputs, labels=labels).loss
    with torch.no_grad(), Devices():
        model, inputs = build("llava"), case.inputs
        if spread:
            model = dispatch(model, "cuda:0", "cuda:1", "cuda:0")
        else:
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.pretended = device
            inputs = {name: value.to(device) for name, value in inputs.items()}
        with prune(model, case.config()):
            loss = model(**inputs, labels=labels).loss.cpu()
    assert torch.equal(loss, expected)


@families
def test_replay_of_a_spread_model(family):
    """A search runs on a spread model too, with tokens dropped and with tokens weighted."""
    case = case_of(family)

    def replay(model, inputs):
        replay = Replay(model, make_selector("fastv", {}))
        with torch.no_grad(), observed_attention(replay.family):
            captured = replay.capture(inputs)
            rows = captured.query[:, None]
            ratios = torch.tensor([case.config().keep, (1.0, *(0.5,) * (case.layers - 1))], device=rows.device)
            relaxed = [replay.relaxed(captured, ratios, rows, temperature=0.1, hard=hard) for hard in (False, True)]
            return [value.cpu() for value in (replay.run(captured, case.config().keep, rows), *relaxed)]

    with Devices():
        model = dispatch(build(family), "cuda:0", "cuda:1", "cuda:0")
        ours = replay(model, {name: value.to("cuda:0") for name, value in case.inputs.items()})
    check_equal(ours, replay(build(family), case.inputs))


@families
def test_layers_on_disk(family, tmp_path):
    model = dispatch(build(family), "cpu", "cpu", "disk", offload_dir=str(tmp_path))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu", "meta"}
    check_same(run_pruned(model, case_of(family)), plain(family))
    check_same(run(model, case_of(family).inputs), stock(family))


def test_offloaded_weights():
    model = accelerate.cpu_offload(build("llava"), execution_device="cpu")
    check_same(run_pruned(model, case_of("llava")), plain("llava"))
    check_same(run(model, case_of("llava").inputs), stock("llava"))
