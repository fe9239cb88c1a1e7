"""Time of several things in interleaved rounds."""

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from vispco.frontier import Interval

T = TypeVar("T")
Forward = Callable[[], Any]
Times = dict[str, float]
"""Seconds of one call, by clock."""
Side = Callable[[], AbstractContextManager[Any]]
"""One of the things to compare: opens the block inside which the same forward is called."""


@dataclass(frozen=True)
class Pairs:
    """Seconds of the two sides; entry i of both belongs to pair i."""

    stock: list[float]
    ours: list[float]

    def ratio(self, resamples: int = 2000, level: float = 0.95) -> Interval:
        """Median of the ratios ours / stock of single pairs, with its interval."""
        return bootstrap_median(np.array(self.ours) / np.array(self.stock), resamples, level)

    def drift(self) -> float:
        """Median stock time of the last quarter of the pairs over that of the first: how much the machine changed."""
        quarter = max(1, len(self.stock) // 4)
        return float(np.median(self.stock[-quarter:]) / np.median(self.stock[:quarter]))


def bootstrap_median(values: ArrayLike, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Median with its percentile bootstrap interval."""
    found = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(0, len(found), size=(resamples, len(found)))
    low, high = np.quantile(np.median(found[draws], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.median(found)), float(low), float(high))


def clocks(device: str) -> dict[str, Callable[[], float]]:
    """Clocks that mean something for a device, by name.

    On a machine that others use too, a process waits for its turn; its CPU time leaves that out. A process that waits
    for a GPU may or may not spend CPU time on it.
    """
    wall = {"wall": time.perf_counter}
    return wall if device == "cuda" else {**wall, "cpu": time.process_time}


def time_pairs(forward: Forward, stock: Side, ours: Side, device: str, pairs: int, warm_up: int) -> dict[str, Pairs]:
    """Time two sides in the order stock, ours, ours, stock, stock, ...; see :func:`time_rounds`.

    Returns
    -------
    dict of str to Pairs
        By clock.
    """
    calls = time_rounds(partial(seconds, forward, device), {"stock": stock, "ours": ours}, pairs, warm_up)
    return {
        name: Pairs(*([call[name] for call in calls[side]] for side in ("stock", "ours"))) for name in clocks(device)
    }


def time_rounds(timed: Callable[[], T], sides: Mapping[str, Side], rounds: int, warm_up: int) -> dict[str, list[T]]:
    """Let all sides take turns, every other round backwards: a linear drift cancels over two rounds.

    Entering and leaving the blocks is not timed.

    Parameters
    ----------
    timed : callable
        Does what is compared once, inside a side's block, and says how long that took.
    sides : mapping of str to Side
    rounds : int
        That count.
    warm_up : int
        Rounds before them.

    Returns
    -------
    dict of str to list
        What ``timed`` said, by side, an entry for every round.
    """
    calls: dict[str, list[T]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(warm_up + rounds):
        for name in order:
            with sides[name]():
                calls[name].append(timed())
        order.reverse()
    return {name: times[warm_up:] for name, times in calls.items()}


def seconds(forward: Forward, device: str) -> Times:
    """Time of one call, by clock; garbage of earlier ones is collected before it, its own output is freed after it."""
    gc.collect()
    wait_for(device)
    start = read_clocks(device)
    output = forward()
    elapsed = since(start, device)
    del output
    return elapsed


def read_clocks(device: str) -> Times:
    """What the clocks of a device say now."""
    return {name: clock() for name, clock in clocks(device).items()}


def since(start: Times, device: str) -> Times:
    """Seconds since ``start``, once the device has done what it was asked."""
    wait_for(device)
    return {name: now - start[name] for name, now in read_clocks(device).items()}


def wait_for(device: str) -> None:
    """Wait until a device has done what it was asked; a CPU always has."""
    if device == "cuda":
        torch.cuda.synchronize()
