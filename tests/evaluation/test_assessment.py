"""Scores side by side, on numbers that can be counted by hand."""

import numpy as np
import pytest

from vispco.data import Picture, Sample, make_scorer
from vispco.evaluation import Assessed, Assessment
from vispco.frontier import bootstrap_mean, paired_difference, paired_ratio


def made(index, slice, picture, answer="yes"):
    return Sample(str(index), Picture(picture), "q", answer, slice)


SAMPLES = [made(0, "b", b"1"), made(1, "a", b"2"), made(2, "b", b"3"), made(3, "a", b"4"), made(4, "a", b"5")]
FULL = Assessed(["yes"] * 5, np.array([1.0, 0.1, 1.0, 0.1, 1.0]))
LESS = Assessed(["no"] * 5, np.array([1.0, 0.1, 0.0, 0.1, 1.0]), {"F1": 0.5})


@pytest.fixture
def found():
    return Assessment(SAMPLES, {"unpruned": FULL, "fastv": LESS}, seed=3)


def test_slices_scores_and_changes(found):
    assert found.slices == {"a": [1, 3, 4], "b": [0, 2]}
    assert found.pictures is None
    assert found.score("fastv") == bootstrap_mean(LESS.scores, seed=3)
    assert found.score("fastv", [1, 3, 4]) == bootstrap_mean([0.1, 0.1, 1.0], seed=3)
    assert found.change("fastv") == paired_difference(LESS.scores, FULL.scores, seed=3)
    assert found.change("fastv", [0, 2]).value == -0.5
    assert found.change("unpruned") == (0.0, 0.0, 0.0)
    assert found.retained("fastv") == paired_ratio(LESS.scores, FULL.scores, seed=3)
    assert found.retained("fastv").value == pytest.approx(2.2 / 3.2)


def test_the_worst_slice_is_the_one_that_loses_most(found):
    """Slice a scores lower and loses nothing."""
    assert found.worst_slice("fastv") == "b"


def test_questions_about_one_picture_are_drawn_together():
    twins = [made(index, "a", b"same" if index < 4 else b"other") for index in range(5)]
    found = Assessment(twins, {"unpruned": FULL, "fastv": LESS}, seed=3)
    clusters = [0, 0, 0, 0, 1]
    assert found.score("unpruned") == pytest.approx(bootstrap_mean(FULL.scores, clusters=clusters, seed=3))
    part = [0, 1, 4]
    expected = paired_difference(LESS.scores[part], FULL.scores[part], clusters=[0, 0, 1], seed=3)
    assert found.change("fastv", part) == pytest.approx(expected)


def test_answers_are_scored_one_by_one():
    assessed = Assessed.of(["Yes.", "", "no", "yes", "yes yes"], SAMPLES, make_scorer("exact_match"))
    assert assessed.scores.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert assessed.totals == {}


def test_nothing_is_retained_of_nothing():
    nothing = Assessed([""] * 5, np.zeros(5))
    assert Assessment(SAMPLES, {"unpruned": nothing, "fastv": LESS}).retained("fastv") is None
