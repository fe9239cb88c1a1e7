"""Quotas against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from vispco.selectors.quotas import apportion, fraction


def one(total, weights, room, heaviest=False):
    return apportion(
        torch.tensor([total]), torch.tensor([weights], dtype=torch.float64), torch.tensor([room]), heaviest
    )[0].tolist()


def oracle(total, weights, room, heaviest):
    """Whole weights, in exact arithmetic, until nothing is left or all parts are full."""
    quota = [0] * len(room)
    while True:
        fits = [p for p in range(len(room)) if quota[p] < room[p]]
        left = total - sum(quota)
        if not fits or not left:
            return quota
        weight = {p: Fraction(max(weights[p], 0)) for p in fits}
        if not sum(weight.values()):
            weight = dict.fromkeys(fits, Fraction(1))
        share = {p: left * weight[p] / sum(weight.values()) for p in fits}
        gets = {p: share[p].numerator // share[p].denominator for p in fits}
        order = sorted(fits, key=lambda p: (-(weight[p] if heaviest else share[p] - gets[p]), p))
        for p in order[: left - sum(gets.values())]:
            gets[p] += 1
        for p in fits:
            quota[p] = min(quota[p] + gets[p], room[p])


@pytest.mark.parametrize(
    ("total", "weights", "room", "heaviest", "expected"),
    [
        (2, [0.6, 0.25, 0.15], [9, 9, 9], False, [1, 1, 0]),
        (2, [0.6, 0.25, 0.15], [9, 9, 9], True, [2, 0, 0]),
        (3, [0.47, 0.53], [3, 3], False, [1, 2]),
        (10, [8.0, 1.0, 1.0], [3, 9, 9], False, [3, 4, 3]),  # 5 go on, shared 2 1/2 each, the tie to the first
        (5, [1.0, 1.0, 1.0], [9, 9, 9], True, [2, 2, 1]),
        (5, [0.0, 0.0, 0.0], [9, 1, 9], False, [3, 1, 1]),
        (9, [1.0, 0.0], [2, 3], False, [2, 3]),  # more than there is room for
        (4, [3.0, 0.0], [2, 3], False, [2, 2]),  # weight 0 where nobody else has room
        (3, [-1.0, 1.0], [5, 5], False, [0, 3]),
        (7, [1 / 7] * 7, [9] * 7, False, [1] * 7),
        (3, [0.1, 0.1, 0.1], [9] * 3, True, [1] * 3),
    ],
)
def test_examples(total, weights, room, heaviest, expected):
    assert one(total, weights, room, heaviest) == expected


def test_thousand_random_cases():
    generator = np.random.default_rng(0)
    for case in range(20):
        parts = 1 + case % 7
        weights = generator.integers(-1, 6, (50, parts)) * generator.integers(0, 2, (50, 1))
        room = generator.integers(0, 9, (50, parts))
        total = generator.integers(0, room.sum(axis=1) + 3)
        heaviest = bool(case % 2)
        got = apportion(*(torch.from_numpy(array) for array in (total, weights, room)), heaviest)
        for row in range(50):
            expected = oracle(int(total[row]), weights[row].tolist(), room[row].tolist(), heaviest)
            assert got[row].tolist() == expected
            assert sum(expected) == min(total[row], room[row].sum())


def test_rounding_breaks_no_tie():
    """Thirds of sums in another order differ in their last bit."""
    weights = [0.1 + 0.2, 0.3, 0.3 + 1e-16]
    assert one(4, weights, [9, 9, 9]) == [2, 1, 1]
    assert one(4, weights[::-1], [9, 9, 9], True) == [2, 1, 1]


def test_no_parts():
    assert apportion(torch.tensor([0]), torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.int64)).shape == (1, 0)


def test_fractions_are_those_of_decimal_text():
    assert fraction(torch.tensor([100, 99, 10, 7]), 0.29).tolist() == [29, 28, 2, 2]
    assert fraction(torch.tensor([10]), 0.7).tolist() == [7]
