"""Timing in rounds: what takes turns with what, what is left out, and what ratios and intervals say."""

from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest

from vispco.profiling import Pairs, bootstrap_median, pairs, seconds, time_pairs, time_rounds


def test_the_ratio_is_of_pairs_so_that_drift_leaves_it_alone():
    stock = np.geomspace(1.0, 8.0, 16).tolist()
    both = Pairs(stock, [1.5 * time for time in stock])
    assert both.ratio() == pytest.approx((1.5, 1.5, 1.5))
    assert both.drift() == pytest.approx(8.0 ** (12 / 15))


def test_the_interval_of_the_ratio_holds_the_median_and_is_no_wider_than_the_pairs():
    ratios = np.random.default_rng(1).lognormal(0.0, 0.1, 101)
    value, low, high = Pairs([2.0] * 101, (2.0 * ratios).tolist()).ratio()
    assert value == pytest.approx(np.median(ratios))
    # The order statistics that bound a median with 95 % are the 41st and the 61st of 101.
    places = np.searchsorted(np.sort(ratios), [low, high])
    assert np.abs(places - [40, 60]).max() <= 3


def test_the_interval_of_a_median_is_that_of_its_level():
    values = np.random.default_rng(2).normal(size=101)
    _, low, high = bootstrap_median(values, level=0.5)
    places = np.searchsorted(np.sort(values), [low, high])
    # A quarter on either side: 50 -/+ 0.674 * sqrt(101) / 2.
    assert np.abs(places - [47, 54]).max() <= 1


@contextmanager
def logged(log, name):
    log.append(name)
    yield


def test_sides_alternate_and_warm_up_is_left_out():
    log, calls = [], iter(range(100))
    side = partial(logged, log)
    timed = time_pairs(lambda: next(calls), partial(side, "s"), partial(side, "o"), "cpu", 3, 1)
    assert "".join(log) == "soossoos"
    assert set(timed) == {"wall", "cpu"}
    assert {(len(both.stock), len(both.ours)) for both in timed.values()} == {(3, 3)}


def test_the_times_of_a_side_are_its_own(monkeypatch):
    slow = []

    @contextmanager
    def ours():
        slow.append(True)
        yield
        slow.clear()

    monkeypatch.setattr(pairs, "seconds", lambda forward, device: {"wall": 3.0 if slow else 2.0, "cpu": 1.0})
    timed = time_pairs(lambda: None, partial(nullcontext), ours, "cpu", 4, 2)
    assert timed["wall"].ratio().value == pytest.approx(1.5)


def test_rounds_go_forth_and_back_over_all_sides():
    log, calls = [], iter(range(100))
    sides = {name: partial(logged, log, name) for name in "abc"}
    found = time_rounds(lambda: (log[-1], next(calls)), sides, rounds=2, warm_up=1)
    assert "".join(log) == "abccbaabc"
    assert found == {"a": [("a", 5), ("a", 6)], "b": [("b", 4), ("b", 7)], "c": [("c", 3), ("c", 8)]}


def test_seconds_are_those_of_the_call_alone(monkeypatch):
    now = iter([10.0, 12.5])
    monkeypatch.setattr(pairs, "clocks", lambda device: {"wall": lambda: next(now)})
    log = []
    monkeypatch.setattr(pairs, "wait_for", lambda device: log.append("wait"))
    assert seconds(lambda: log.append("call"), "cpu") == {"wall": 2.5}
    assert log == ["wait", "call", "wait"]
