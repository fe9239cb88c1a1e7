"""Time in interleaved pairs, and peak memory."""

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from vispco.frontier import Interval

Forward = Callable[[], Any]
Side = Callable[[], AbstractContextManager[Any]]
"""One of two things to compare: opens the block inside which the same forward is called."""


@dataclass(frozen=True)
class Pairs:
    """Seconds of the two sides; entry i of both belongs to pair i."""

    stock: list[float]
    ours: list[float]

    def ratio(self, resamples: int = 2000, level: float = 0.95) -> Interval:
        """Median of the ratios ours / stock of single pairs, with its percentile bootstrap interval over pairs."""
        ratios = np.array(self.ours) / np.array(self.stock)
        draws = np.random.default_rng(0).integers(0, len(ratios), size=(resamples, len(ratios)))
        low, high = np.quantile(np.median(ratios[draws], axis=1), [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(np.median(ratios)), float(low), float(high))

    def drift(self) -> float:
        """Median stock time of the last quarter of the pairs over that of the first: how much the machine changed."""
        quarter = max(1, len(self.stock) // 4)
        return float(np.median(self.stock[-quarter:]) / np.median(self.stock[:quarter]))


def clocks(device: str) -> dict[str, Callable[[], float]]:
    """Clocks that mean something for a device, by name.

    On a machine that others use too, a process waits for its turn; its CPU time leaves that out. A process that waits
    for a GPU may or may not spend CPU time on it.
    """
    wall = {"wall": time.perf_counter}
    return wall if device == "cuda" else {**wall, "cpu": time.process_time}


def time_pairs(forward: Forward, stock: Side, ours: Side, device: str, pairs: int, warm_up: int) -> dict[str, Pairs]:
    """Time both sides in the order stock, ours, ours, stock, stock, ...: a linear drift cancels over two pairs.

    Entering and leaving the blocks is not timed.

    Returns
    -------
    dict of str to Pairs
        By clock.
    """
    calls: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    order = [(stock, calls[0]), (ours, calls[1])]
    for _ in range(warm_up + pairs):
        for side, times in order:
            with side():
                times.append(seconds(forward, device))
        order.reverse()
    return {name: Pairs(*([call[name] for call in side[warm_up:]] for side in calls)) for name in clocks(device)}


def seconds(forward: Forward, device: str) -> dict[str, float]:
    """Time of one call, by clock; garbage of earlier ones is collected before it, its own output is freed after it."""
    gc.collect()
    wait_for(device)
    start = {name: clock() for name, clock in clocks(device).items()}
    output = forward()
    wait_for(device)
    elapsed = {name: clock() - start[name] for name, clock in clocks(device).items()}
    del output
    return elapsed


def wait_for(device: str) -> None:
    """Wait until a device has done what it was asked; a CPU always has."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(forward: Forward, device: str) -> int:
    """Most bytes of tensors alive at once during a call, beyond those alive before it (weights and inputs)."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        forward()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensor storages that operations make, until they are freed.

    Memory that a kernel takes and gives back within one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A storage that is first seen as an argument was there before: a weight or an input.
        self._meet((args, kwargs), new=False)
        output = func(*args, **(kwargs or {}))
        self._meet(output, new=True)
        return output

    def _meet(self, tree: Any, *, new: bool) -> None:
        for value in tree_iter(tree):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in self._known:
                storage = value.untyped_storage()
                size = storage.nbytes() if new else 0
                self.live += size
                self.peak = max(self.peak, self.live)
                self._known[storage._cdata] = ref(storage, partial(self._forget, storage._cdata, size))

    def _forget(self, address: int, size: int, _: Any) -> None:
        del self._known[address]
        self.live -= size
