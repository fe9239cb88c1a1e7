"""Schedules are enumerated without gaps and brought onto a budget without waste."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from vispco.cost import FlopCost
from vispco.errors import ConfigError
from vispco.schedule import check_keep, keep_counts
from vispco.search.space import (
    cheapest_schedule,
    check_ladder,
    fit_to_budget,
    monotone_schedules,
    step_schedules,
)

LAYERS = 6
MODEL = LlamaConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64,
)  # fmt: skip
SAMPLES = [(5, 25), (7, 25), (4, 40)]
LADDER = (0.75, 0.5, 0.25, 0.125)


# --- sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 5, 8])
@pytest.mark.parametrize("ladder", [(1.0,), (0.5,), LADDER, (1.0, *LADDER), (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)])
def test_monotone_schedules_are_all_there_once(layers, ladder):
    levels = {1.0, *ladder}
    found = monotone_schedules(layers, ladder)
    assert len(found) == math.comb(layers - 2 + len(levels), len(levels) - 1)
    assert len(set(found)) == len(found)
    for schedule in found:
        assert check_keep(schedule, layers) == schedule
        assert schedule[0] == 1.0
        assert set(schedule) <= levels


def test_number_of_the_reference_grid():
    assert len(monotone_schedules(8, LADDER)) == 330


def test_step_schedules():
    assert step_schedules(3, (0.5, 0.25)) == [(1.0, 0.5, 0.5), (1.0, 0.25, 0.25), (1.0, 1.0, 0.5), (1.0, 1.0, 0.25)]
    found = step_schedules(8, (1.0, *LADDER))
    assert len(set(found)) == len(found) == 7 * 4
    assert set(found) <= set(monotone_schedules(8, LADDER))
    assert all(sum(after < before for before, after in pairwise(schedule)) == 1 for schedule in found)


def test_cheapest_schedule_keeps_one_token():
    schedule = cheapest_schedule(LAYERS)
    assert keep_counts(check_keep(schedule, LAYERS), 576).tolist() == [576] + [1] * (LAYERS - 1)
    cost = FlopCost(MODEL, SAMPLES)
    assert all(cost.exact(schedule) < cost.exact(other) for other in monotone_schedules(LAYERS, LADDER))


def test_ladder_is_sorted_and_without_doubles():
    assert check_ladder([0.25, 1, 0.5, 0.25]) == (1.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ([], r"ladder \[\] needs ratios in \(0, 1\]; none given"),
        ([0.5, 0.0], r"ladder \[0\.5, 0\.0\] needs ratios in \(0, 1\]; 0\.0"),
        ([1.5], r"needs ratios in \(0, 1\]; 1\.5"),
        ([-0.5], r"needs ratios in \(0, 1\]; -0\.5"),
        ([float("nan")], r"needs ratios in \(0, 1\]; nan"),
    ],
)
def test_bad_ladder(ladder, message):
    with pytest.raises(ConfigError, match=message):
        check_ladder(ladder)
    with pytest.raises(ConfigError):
        step_schedules(4, ladder)


# --- budgets ---------------------------------------------------------------------------------------------------------

hundredths = st.lists(st.integers(5, 95), min_size=LAYERS - 1, max_size=LAYERS - 1)


def counts(schedule):
    return keep_counts(schedule, [visual for _, visual in SAMPLES])


@settings(deadline=None, max_examples=20)
@given(hundredths, st.sampled_from([None, 1, 2]), st.floats(0.35, 0.99), st.integers(0, 1))
def test_fitted_schedule_meets_the_budget_within_one_token(percent, whole, budget, scored_rows):
    start = [1.0, *(value / 100 for value in sorted(percent, reverse=True))]
    start[: whole or 1] = [1.0] * (whole or 1)
    cost = FlopCost(MODEL, SAMPLES, scored_rows)
    cheapest = [1.0 if ratio == 1.0 else 1e-6 for ratio in start]
    assume(cost.exact(cheapest) <= budget)
    fitted = fit_to_budget(start, cost, budget)
    assert check_keep(fitted, LAYERS) == fitted
    assert cost.exact(fitted) <= budget
    assert all(ratio == round(ratio, 6) for ratio in fitted), "prints short"
    # The cuts are where they were, and the exponent is the same everywhere.
    for (before, after), (fitted_before, fitted_after) in zip(pairwise(start), pairwise(fitted), strict=True):
        assert (after < before) == (fitted_after < fitted_before) or fitted_after == 1e-6
    # Six digits tell the exponent best where r ln r is largest.
    layer = max(range(LAYERS), key=lambda place: -fitted[place] * math.log(fitted[place]))
    exponent = math.log(fitted[layer]) / math.log(start[layer])
    for ratio, result in zip(start, fitted, strict=True):
        assert result == pytest.approx(max(ratio**exponent, 1e-6), rel=1e-3, abs=3e-6)
    # A slightly more generous member, by a token at most, is over the budget already.
    if 1e-3 < fitted[-1] < 0.99:
        generous = [ratio ** (exponent * 0.998) for ratio in start]
        assert cost.exact(generous) > budget
        assert (counts(generous) - counts(fitted)).max() <= 1


@pytest.mark.parametrize("budget", [0.5, 0.7, 0.9])
def test_slack_is_filled_and_excess_removed(budget):
    cost = FlopCost(MODEL, SAMPLES)
    low, high = (1.0, 0.2, 0.2, 0.1, 0.1, 0.1), (1.0, 0.98, 0.98, 0.97, 0.97, 0.97)
    assert cost.exact(low) < budget < cost.exact(high)
    tokens = cost.exact((1.0,) * LAYERS) / 30  # about what a token costs in every layer of every sample
    for schedule in (low, high):
        fitted = fit_to_budget(schedule, cost, budget)
        assert budget - tokens < cost.exact(fitted) <= budget
        assert [layer for layer in range(1, LAYERS) if fitted[layer] < fitted[layer - 1]] == [1, 3]


def test_layers_without_any_token_are_brought_onto_a_budget_too():
    """All tokens leave at layer 3: any power of 0 is 0, so it is read as a single token."""
    cost = FlopCost(MODEL, SAMPLES)
    schedule = fit_to_budget((1.0, 1.0, 1.0, 0.0, 0.0, 0.0), cost, 0.8)
    assert 0.75 < cost.exact(schedule) <= 0.8
    assert 0.0 < schedule[3] < 1.0


def test_a_budget_of_one_leaves_the_model_whole():
    """Whatever rounding errors the cost of the unpruned model holds."""
    for seed in range(20):
        pairs = torch.randint(1, 700, (9, 2), generator=torch.Generator().manual_seed(seed)).tolist()
        cost = FlopCost(MODEL, [tuple(pair) for pair in pairs])
        assert fit_to_budget((1.0, 0.5, 0.5, 0.25, 0.25, 0.25), cost, 1.0) == (1.0,) * LAYERS
        assert fit_to_budget((1.0,) * LAYERS, cost, 1.0) == (1.0,) * LAYERS


@pytest.mark.parametrize("schedule", [(1.0, 1.0, 1.0, 1.0, 1.0, 0.5), (1.0,) * LAYERS])
def test_cuts_that_come_too_late(schedule):
    with pytest.raises(ConfigError, match=r"a schedule that cuts like \[1\.0, .*\] cannot cost as little as 0\.5$"):
        fit_to_budget(schedule, FlopCost(MODEL, SAMPLES), 0.5)


def test_earliest_cut_reaches_the_cheapest_schedule():
    cost = FlopCost(MODEL, SAMPLES)
    least = cost.exact(cheapest_schedule(LAYERS))
    fitted = fit_to_budget((1.0, *[0.5] * (LAYERS - 1)), cost, least)
    assert cost.exact(fitted) == least
    with pytest.raises(ConfigError, match="cannot cost as little as"):
        fit_to_budget((1.0, *[0.5] * (LAYERS - 1)), cost, least - 1e-6)
