"""Damage of single cuts, and what it predicts for several."""

from types import SimpleNamespace

import numpy as np
import pytest

from vispco.evaluation import Quality
from vispco.search.probe import DEEPEST, Damage

SHARES = (0.5, 0.1)
TABLE = np.array([[0.0, 0.0], [0.4, 0.9], [0.1, 0.3], [0.05, 0.06]])
"""Loss of a cut at layers 0..3 to each share."""


def predict(*schedules, damage=None):
    return (damage or Damage(SHARES, TABLE)).predict(np.array(schedules))


def test_single_cuts_are_predicted_as_they_were_probed():
    assert predict((1, 0.5, 0.5, 0.5), (1, 1, 0.1, 0.1), (1, 1, 1, 0.1), (1, 1, 1, 1)).tolist() == [0.4, 0.3, 0.06, 0.0]


def test_between_probed_shares_it_is_linear_in_the_logarithm():
    middle = np.sqrt(0.5 * 0.1)
    assert predict((1, 1, middle, middle)) == pytest.approx([0.2])
    assert predict((1, 1, np.sqrt(0.5), np.sqrt(0.5))) == pytest.approx([0.05])


def test_every_cut_pays_for_the_share_that_it_takes_of_what_is_left():
    assert predict((1, 0.5, 0.25, 0.25)) == pytest.approx([0.4 + 0.1])
    assert predict((1, 0.1, 0.1, 0.01)) == pytest.approx([0.9 + 0.06])


def test_below_the_smallest_share_the_last_slope_goes_on_but_no_more_than_all_is_lost():
    slope = (0.3 - 0.1) / np.log(0.5 / 0.1)
    below = 0.1 * 0.5
    assert predict((1, 1, below, below)) == pytest.approx([0.3 + slope * np.log(2)])
    deepest = 0.1 * DEEPEST
    assert predict((1, deepest, deepest, deepest)) == pytest.approx([1.0])
    assert predict((1, 1, 1e-5, 1e-5)) == predict((1, 1, deepest, deepest))


def test_more_loss_at_more_tokens_does_not_make_deeper_cuts_better():
    """A table with noise: its slope would say that fewer tokens lose less."""
    noisy = Damage(SHARES, np.array([[0.0, 0.0], [0.3, 0.2]]))
    assert predict((1, 0.01), damage=noisy) == pytest.approx([0.2])


def test_the_order_of_shares_does_not_matter():
    turned = Damage(SHARES[::-1], TABLE[:, ::-1])
    schedules = ((1, 0.7, 0.3, 0.3), (1, 1, 0.02, 0.02))
    np.testing.assert_allclose(predict(*schedules), predict(*schedules, damage=turned))


def test_probing_measures_every_layer_and_share_on_few_samples():
    asked = []

    def evaluate(schedules, limit):
        asked.append((schedules, limit))
        kl = [0.1 * schedule.count(1.0) + schedule[-1] for schedule in schedules]
        return [Quality(np.array([0.0, 2 * value]), np.zeros(2)) for value in kl]

    damage = Damage.probe(SimpleNamespace(evaluate=evaluate, replay=SimpleNamespace(layers=4)), SHARES, 5)
    [(schedules, limit)] = asked
    assert limit == 5
    assert len(schedules) == 6
    for schedule in schedules:
        kl = 0.1 * schedule.count(1.0) + schedule[-1]
        assert predict(schedule, damage=damage) == pytest.approx([(1 - np.exp(-2 * kl)) / 2])
