"""Kendall's tau against scipy, and what has no order."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from vispco.errors import DataError
from vispco.frontier import kendall_tau, rank_correlation


@pytest.mark.parametrize("seed", range(5))
def test_equals_scipy_with_and_without_ties(seed):
    random = np.random.default_rng(seed)
    first = random.normal(size=40)
    second = first + random.normal(size=40)
    assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic, abs=1e-12)
    tied = [random.integers(0, 4, 40) for _ in range(2)]
    assert kendall_tau(*tied) == pytest.approx(kendalltau(*tied).statistic, abs=1e-12)


def test_ends():
    assert kendall_tau([1, 2, 3], [0.1, 0.2, 0.9]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0


def test_of_points(make_point):
    points = [
        make_point(name=str(row), costs={"flops": flops, "latency": time})
        for row, (flops, time) in enumerate([(0.2, 0.5), (0.4, 0.4), (0.6, 0.9)])
    ]
    assert rank_correlation(points, "flops", "latency") == pytest.approx(1 / 3)
    with pytest.raises(DataError, match=r"point '0' has no cost 'kv'; choose one of \['flops', 'latency'\]"):
        rank_correlation(points, "flops", "kv")


def test_without_an_order_there_is_none():
    with pytest.raises(DataError, match="all equal; give points of different cost"):
        kendall_tau([1.0, 1.0], [0.0, 1.0])
