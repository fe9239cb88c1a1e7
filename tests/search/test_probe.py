"""Probed damage and the schedules it predicts."""

from types import SimpleNamespace

import numpy as np
import pytest

from vispco.evaluation import Quality
from vispco.schedule import check_keep
from vispco.search.probe import Damage, stepped_schedules

RATIOS = (0.5, 0.1)
TABLE = np.array([[0.0, 0.0], [1.0, 3.0], [0.2, 0.8], [0.0, 0.1]])


def test_a_single_cut_is_predicted_as_probed():
    damage = Damage(RATIOS, TABLE)
    schedules = np.array([[1, 0.5, 0.5, 0.5], [1, 1, 0.1, 0.1], [1, 1, 1, 0.1], [1, 1, 1, 1]])
    np.testing.assert_allclose(damage.predict(schedules), [1.0, 0.8, 0.1, 0.0])


def test_between_and_beyond_the_probed_ratios():
    damage = Damage(RATIOS, TABLE)
    middle, beyond = damage.predict(np.array([[1, np.sqrt(0.05), np.sqrt(0.05), np.sqrt(0.05)], [1, 1, 0.01, 0.01]]))
    assert middle == pytest.approx(2.0)
    assert beyond == pytest.approx(0.8)


def test_several_cuts_cost_their_increments():
    damage = Damage(RATIOS, TABLE)
    assert damage.predict(np.array([[1, 0.5, 0.1, 0.1]]))[0] == pytest.approx(1.0 + (0.8 - 0.2))


def test_the_order_of_the_probed_ratios_does_not_matter():
    turned = Damage(RATIOS[::-1], TABLE[:, ::-1])
    schedules = np.array([[1, 0.7, 0.3, 0.2], [1, 1, 0.9, 0.05]])
    np.testing.assert_allclose(turned.predict(schedules), Damage(RATIOS, TABLE).predict(schedules))


def test_probing_asks_for_every_single_cut():
    asked = []

    def evaluate(schedules, limit):
        asked.extend(schedules)
        return [Quality(np.full(limit, schedule.count(1.0) + schedule[-1]), np.zeros(limit)) for schedule in schedules]

    damage = Damage.probe(SimpleNamespace(evaluate=evaluate, replay=SimpleNamespace(layers=4)), RATIOS, 5)
    assert len(asked) == 6
    np.testing.assert_allclose(damage.predict(np.array([[1, 1, 0.5, 0.5]])), [2.5])


def test_stepped_schedules_are_legal_distinct_and_complete():
    found = stepped_schedules(5, 2, [0.5, 0.25, 0.1])
    assert len(found) == 4 * 3 + 6 * 3
    assert len({schedule for _, schedule in found}) == len(found)
    for cuts, schedule in found:
        assert check_keep(schedule, 5) == schedule
        assert [layer for layer in range(1, 5) if schedule[layer] < schedule[layer - 1]] == list(cuts)
