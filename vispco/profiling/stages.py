"""When every decoder layer of a real forward begins and ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from vispco.profiling.pairs import clocks, wait_for


@dataclass(frozen=True)
class Stages:
    """Seconds of one pass through the decoder.

    Attributes
    ----------
    before : float
        From the start of the call, or the end of the last layer of the pass before, to the start of the first layer.
    entries : tuple of float, one per layer
        From there, or the end of the layer before, to the start of the layer itself: where tokens are dropped.
    layers : tuple of float, one per layer
        The layers themselves.
    after : float
        From the end of the last layer to the end of the call; 0 where another pass follows.
    """

    before: float
    entries: tuple[float, ...]
    layers: tuple[float, ...]
    after: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.before + sum(self.entries) + sum(self.layers) + self.after


def time_stages(call: Callable[[], Any], layers: nn.ModuleList, device: str, clock: str) -> list[Stages]:
    """Time the stages of every pass through the decoder in one call: one for a prefill, one for each new token.

    On a GPU, events are recorded as the work is queued, and nothing waits before the end of the call.

    Parameters
    ----------
    call : callable
        A forward of the model, or its ``generate``, without gradients.
    layers : ModuleList
        Decoder layers, each of which runs once per pass. Pruning, if any, is already installed.
    device : str
        "cpu" or "cuda".
    clock : str
        One of :func:`vispco.profiling.clocks`; on a GPU it is the device's own.
    """
    marks: list[Any] = []
    mark = _event if device == "cuda" else clocks(device)[clock]

    def note(*_: Any) -> None:
        marks.append(mark())

    with _noted(layers, note):
        wait_for(device)
        note()
        output = call()
        note()
        wait_for(device)
    del output
    spans = [start.elapsed_time(end) / 1e3 if device == "cuda" else end - start for start, end in pairwise(marks)]
    # Of every pass the time before its first layer, then two spans per layer; at the end what came after the last pass.
    size = 1 + 2 * len(layers)
    passes = [spans[start : start + size] for start in range(0, len(spans) - 1, size)]
    after = [0.0] * (len(passes) - 1) + [spans[-1]]
    return [
        Stages(first, tuple(rest[::2]), tuple(rest[1::2]), last)
        for (first, *rest), last in zip(passes, after, strict=True)
    ]


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


@contextmanager
def _noted(layers: nn.ModuleList, note: Callable[..., None]) -> Iterator[None]:
    # The engine drops tokens in a hook before a layer; for the first layer a mark has to come before that hook.
    handles = [layers[0].register_forward_pre_hook(note, prepend=True)]
    for layer in layers:
        handles += [layer.register_forward_pre_hook(note), layer.register_forward_hook(note)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
