"""Stages of a forward are told apart to the tick, and nothing of the watching stays behind."""

import pytest
import torch
from builders import build_batch
from torch import nn

from vispco import ModelCard, PruningConfig, prune
from vispco.profiling import stages
from vispco.profiling.stages import Stages, time_stages
from vispco.selectors import Random


class Ticks:
    """A clock that only goes on when told to."""

    def __init__(self):
        self.now = 0.0

    def spend(self, ticks):
        self.now += ticks


class Layer(nn.Module):
    def __init__(self, clock, ticks):
        super().__init__()
        self.clock, self.ticks = clock, ticks

    def forward(self, hidden):
        self.clock.spend(self.ticks)
        return hidden


@pytest.fixture
def ticks(monkeypatch):
    clock = Ticks()
    monkeypatch.setattr(stages, "clocks", lambda device: {"ticks": lambda: clock.now})
    return clock


def test_every_stage_of_a_pass(ticks):
    layers = nn.ModuleList(Layer(ticks, spent) for spent in (10.0, 20.0))

    def call():
        ticks.spend(1.0)
        layers[0](0)
        ticks.spend(2.0)
        layers[1](0)
        ticks.spend(4.0)

    assert time_stages(call, layers, "cpu", "ticks") == [Stages(1.0, (0.0, 2.0), (10.0, 20.0), 4.0)]


def test_a_hook_before_a_layer_is_its_entry_even_before_the_first(ticks):
    """There the engine drops tokens."""
    layers = nn.ModuleList(Layer(ticks, spent) for spent in (10.0, 20.0))
    for layer, spent in zip(layers, (3.0, 5.0), strict=True):
        layer.register_forward_pre_hook(lambda module, args, spent=spent: ticks.spend(spent))
    (found,) = time_stages(lambda: layers[1](layers[0](0)), layers, "cpu", "ticks")
    assert found == Stages(0.0, (3.0, 5.0), (10.0, 20.0), 0.0)
    assert found.total == 38.0


def test_passes_of_one_call(ticks):
    """What lies between two passes counts to the later one."""
    layers = nn.ModuleList([Layer(ticks, 10.0)])

    def call():
        for _ in range(3):
            ticks.spend(1.0)
            layers[0](0)
        ticks.spend(7.0)

    first, second, third = time_stages(call, layers, "cpu", "ticks")
    assert first == second == Stages(1.0, (0.0,), (10.0,), 0.0)
    assert third == Stages(1.0, (0.0,), (10.0,), 7.0)


def test_hooks_go_even_after_an_error(ticks):
    layers = nn.ModuleList([Layer(ticks, 1.0)])

    def call():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        time_stages(call, layers, "cpu", "ticks")
    assert not layers[0]._forward_hooks
    assert not layers[0]._forward_pre_hooks


@torch.no_grad()
def test_a_pruned_prefill_shows_the_choice_before_the_layer_of_the_cut(tiny_llava, ticks, monkeypatch):
    choose = Random.choose

    def slow(self, inputs, counts):
        ticks.spend(100.0)
        return choose(self, inputs, counts)

    monkeypatch.setattr(Random, "choose", slow)
    config = PruningConfig(selector="random", keep=(1.0, 1.0, 0.5, 0.25), model=ModelCard(type="llava", layers=4))
    inputs = build_batch([(2, 5)], [1])
    with prune(tiny_llava, config):
        (found,) = time_stages(lambda: tiny_llava(**inputs), tiny_llava.get_decoder().layers, "cpu", "ticks")
    assert found == Stages(0.0, (0.0, 0.0, 100.0, 100.0), (0.0,) * 4, 0.0)


@torch.no_grad()
def test_stages_add_up_to_the_call(tiny_llava):
    """Of real time: a prefill and two new tokens."""
    inputs = build_batch([(2, 5)], [1])
    passes = time_stages(
        lambda: tiny_llava.generate(**inputs, do_sample=False, max_new_tokens=3),
        tiny_llava.get_decoder().layers, "cpu", "wall",
    )  # fmt: skip
    assert len(passes) == 3
    assert all(min(one.before, *one.entries, *one.layers) >= 0.0 for one in passes)
    assert all(len(one.entries) == len(one.layers) == 4 for one in passes)
    assert [one.after > 0 for one in passes] == [False, False, True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_events_of_a_device():
    layers = nn.ModuleList(nn.Linear(2048, 2048, device="cuda") for _ in range(3))
    hidden = torch.randn(4096, 2048, device="cuda")
    (found,) = time_stages(lambda: layers[2](layers[1](layers[0](hidden))), layers, "cuda", "wall")
    assert all(0 < spent < 1 for spent in found.layers)
