"""Starts: the kernel's schedules with the least predicted damage within every budget."""

from itertools import combinations

import numpy as np
import pytest
import torch
from builders import build_tiny_llava

from vispco.cost import FlopCost
from vispco.errors import BudgetError
from vispco.kernels import REGISTRY, make_kernel
from vispco.search import cheapest_schedule
from vispco.search.probe import Damage
from vispco.search.starts import choose_starts, stretch

LAYERS = 6
LEVELS = (0.7, 0.4, 0.2, 0.1, 0.03)
SHARES = (0.5, 0.1)
PRICE = np.array([0.0, 0.6, 0.05, 0.5, 0.04, 0.02])
"""Damage per layer: cuts at layers 1 and 3 hurt."""


@pytest.fixture(scope="module")
def cost():
    return FlopCost(build_tiny_llava(layers=LAYERS).config, [(10, 100), (14, 90)])


@pytest.fixture
def damage():
    return Damage(SHARES, np.stack([PRICE * 0.5, PRICE], axis=1))


def test_stretching_meets_the_budget_and_keeps_the_cuts(cost):
    schedules = torch.tensor([[1, 1, 0.5, 0.5, 0.2, 0.2], [1, 0.9, 0.9, 0.9, 0.9, 0.9]], dtype=torch.float64)
    stretched = stretch(schedules, cost, 0.6)
    np.testing.assert_allclose(cost.soft(stretched).numpy(), 0.6, atol=1e-6)
    assert (stretched.diff() < 0).equal(schedules.diff() < 0)
    np.testing.assert_allclose(stretched[0, 4].log() / stretched[0, 2].log(), np.log(0.2) / np.log(0.5))


@pytest.mark.parametrize("budgets", [(0.8, 0.5), (0.45,)])
def test_starts_hold_their_budgets_avoid_the_walls_and_differ_in_their_cuts(cost, damage, budgets):
    kernel = make_kernel("multistep", LAYERS, 2)
    rows, owner = choose_starts(kernel, damage, cost, budgets, 3, LEVELS)
    assert owner.tolist() == [index for index in range(len(budgets)) for _ in range(3)]
    for index, budget in enumerate(budgets):
        schedules = kernel.harden(rows[owner == index])
        cuts = {tuple((row.diff() < -0.02).nonzero()[:, 0].tolist()) for row in schedules}
        assert len(cuts) == 3
        assert not {0, 2} & set(sum(cuts, ())), "layers 1 and 3 are walls, and others are within the budget"
        for schedule in schedules.tolist():
            assert budget - 0.05 < cost.exact(schedule) <= budget + 1e-6


def test_the_first_start_is_the_best_of_all_by_brute_force(cost, damage):
    """Over all pairs of cut layers and a fine ladder of first ratios, the second set by the budget."""
    kernel, budget = make_kernel("multistep", LAYERS, 2), 0.55
    fine = torch.tensor(
        [
            (1.0,) * first + (ratio,) * (second - first) + (ratio * share,) * (LAYERS - second)
            for first, second in combinations(range(1, LAYERS), 2)
            for ratio in np.geomspace(0.02, 1.0, 60)
            for share in np.geomspace(0.02, 1.0, 60)
        ],
        dtype=torch.float64,
    )
    allowed = fine[cost.soft(fine) <= budget].numpy()
    rows, _ = choose_starts(kernel, damage, cost, (budget,), 1, LEVELS)
    found = damage.predict(kernel.harden(rows).numpy())
    assert found[0] <= damage.predict(allowed).min() * 1.15


def test_near_the_cheapest_cost_there_is_a_start_too(cost, damage):
    budget = cost.exact(cheapest_schedule(LAYERS)) + 1e-3
    rows, _ = choose_starts(make_kernel("multistep", LAYERS, 2), damage, cost, (budget,), 1, LEVELS)
    schedule = make_kernel("multistep", LAYERS, 2).harden(rows)[0]
    assert schedule[1] < 0.05


def test_a_kernel_that_cuts_too_late_for_a_budget_says_so(cost, damage):
    """One fixed cut, in the middle."""
    kernel = make_kernel("multistep_fixed", LAYERS, 1)
    with pytest.raises(
        BudgetError, match=r"budget 0.4 is out of reach of kernel FixedMultiStep, whose schedules cost 0\.5"
    ):
        choose_starts(kernel, damage, cost, (0.8, 0.4), 1, LEVELS)


def test_starts_pay_for_choosing_tokens(damage):
    """A selector as dear as half a layer: cuts that the soft cost allows may not be allowed after all."""
    config = build_tiny_llava(layers=LAYERS).config
    plain = FlopCost(config, [(10, 100)])
    dear = FlopCost(config, [(10, 100)], lambda cut: 0.5 * cut.shape.layer(cut.tokens))
    kernel, budget = make_kernel("multistep", LAYERS, 2), 0.45
    rows, owner = choose_starts(kernel, damage, dear, (budget,), 2, LEVELS)
    assert owner.tolist() == [0, 0]
    for schedule in kernel.harden(rows).tolist():
        assert dear.exact(schedule) <= budget + 1e-6
        assert plain.exact(schedule) < 0.4
    with pytest.raises(BudgetError, match=r"budget 0.25 is out of reach of kernel MultiStep"):
        choose_starts(kernel, damage, dear, (0.25,), 1, LEVELS)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_kernel_has_starts_for_every_budget(cost, damage, name):
    kernel = make_kernel(name, LAYERS, 2)
    rows, owner = choose_starts(kernel, damage, cost, (0.8, 0.6), 1, LEVELS)
    assert owner.tolist() == [0, 1]
    assert rows.shape == (2, kernel.size)
    np.testing.assert_array_equal(rows, kernel.project(rows))
    for schedule, budget in zip(kernel.harden(rows).tolist(), (0.8, 0.6), strict=True):
        assert budget - 0.12 < cost.exact(schedule) < budget + 0.03
