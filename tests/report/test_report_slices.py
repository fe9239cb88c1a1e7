"""Slices: means and paired changes with intervals, honest where one sample is all there is."""

import numpy as np
import pytest

from vispco.errors import DataError
from vispco.frontier import bootstrap_mean
from vispco.report.slices import Scores, slice_bars, worst_of


@pytest.fixture
def scores(full):
    return full.scores


def test_rows_means_and_changes(scores):
    found = slice_bars(scores, ["learned b=0.50", "grid a"], "unpruned")
    assert found["rows"] == [("all", 8), ("colour", 4), ("count", 3), ("rare", 1)]
    assert [each[0] for each in found["unpruned"]] == [7 / 8, 1.0, 2 / 3, 1.0]
    learned = found["bars"]["learned b=0.50"]
    assert [each[0] for each in learned["scores"]] == [4 / 8, 3 / 4, 0.0, 1.0]
    assert [each[0] for each in learned["changes"]] == pytest.approx([-3 / 8, -1 / 4, -2 / 3, 0.0])
    assert learned["worst"] == 2
    assert found["bars"]["grid a"]["worst"] == 3


def test_intervals_are_those_of_the_slice(scores):
    found = slice_bars(scores, ["learned b=0.50"], "unpruned")["bars"]["learned b=0.50"]
    assert found["scores"][1] == bootstrap_mean([1, 1, 1, 0])
    assert found["changes"][1] == bootstrap_mean([0, 0, 0, -1])  # paired: what is equal on both sides cancels
    assert found["changes"][2] == bootstrap_mean([-1, -1, 0])


def test_one_sample_has_no_interval(scores):
    found = slice_bars(scores, ["grid a"], "unpruned")
    assert found["unpruned"][3] == (1.0, None, None)
    assert found["bars"]["grid a"]["changes"][3] == (-1.0, None, None)


def test_without_a_baseline_there_are_no_changes(scores):
    found = slice_bars(scores, ["grid a"], None)
    assert found["unpruned"] is None
    assert (found["bars"]["grid a"]["changes"], found["bars"]["grid a"]["worst"]) == (None, None)


def test_a_chance_result_shows_as_one():
    """400 fair coins: the interval holds one half and is about 2 * 1.96 * sqrt(0.25 / 400) = 0.098 wide."""
    coins = np.random.default_rng(1).integers(0, 2, 400)
    value, low, high = Scores({"a": coins}, ["x"] * 400).mean("a")
    assert low < 0.5 < high
    assert high - low == pytest.approx(0.098, rel=0.1)
    assert value == coins.mean()


def test_nothing_is_worst_where_nothing_is_lost():
    assert worst_of({"a": -0.1, "b": 0.0}) is None
    assert worst_of({}) is None
    assert worst_of({"a": 0.1, "b": 0.2, "c": 0.2}) == "b"


def test_refuses_scores_of_other_samples():
    with pytest.raises(DataError, match=r"scores of 'a' have shape \(2,\), there are 3 samples"):
        Scores({"a": [1, 0]}, ["x"] * 3)
