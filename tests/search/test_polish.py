"""Local moves: what they are, that they help on what they are measured on, and what they are charged."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from vispco.cost import FlopCost
from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator, Quality
from vispco.schedule import check_keep
from vispco.search import fit_to_budget, polish
from vispco.search.polish import bounded, cuts_of, moved_cuts, neighbours, with_cuts

LAYERS = 6
MODEL = LlamaConfig(
    vocab_size=64, hidden_size=48, intermediate_size=80, num_hidden_layers=LAYERS, num_attention_heads=4
)
COST = FlopCost(MODEL, [(5, 100), (7, 100), (4, 60)], selection=1)
BUDGETS = (0.4, 0.55, 0.7, 0.85)

# --- moves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [(1.0,) * 6, (1.0, 0.5, 0.5, 0.5, 0.5, 0.5), (1.0, 1.0, 0.7, 0.7, 0.7, 0.1), (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)],
)
def test_cuts_say_it_all(schedule):
    assert with_cuts(cuts_of(schedule), LAYERS) == schedule


def test_moves_of_two_cuts():
    moved = list(moved_cuts([(2, 0.64), (4, 0.16)], LAYERS, 2.0))
    assert moved == [
        [(1, 0.64), (4, 0.16)],
        [(3, 0.64), (4, 0.16)],
        [(4, 0.16)],
        [(2, 0.64), (3, 0.16)],
        [(2, 0.64), (5, 0.16)],
        [(2, 0.64)],
        [(2, 0.64), (4, 0.32)],
        [(2, 0.64), (4, 0.08)],
        [(1, pytest.approx(0.8)), (2, 0.64), (4, 0.16)],
        [(2, 0.64), (3, pytest.approx(0.32)), (4, 0.16)],
        [(2, 0.64), (4, 0.16), (5, pytest.approx(0.08))],
    ]


def test_moves_of_one_cut_and_of_none():
    assert list(moved_cuts([(3, 0.25)], 5, 1.5)) == [
        [(2, 0.25)], [(4, 0.25)], [(1, 0.5), (3, 0.25)], [(2, 0.5), (3, 0.25)], [(3, 0.25), (4, 0.125)]
    ]  # fmt: skip
    assert list(moved_cuts([], 3, 1.5)) == [[(1, 0.5)], [(2, 0.5)]]


def test_every_ratio_of_three_cuts_is_moved_as_far_as_its_neighbours_allow():
    moved = list(moved_cuts([(1, 0.6), (2, 0.5), (3, 0.1)], 4, 1.5))
    same = [[ratio for _, ratio in cuts] for cuts in moved if [layer for layer, _ in cuts] == [1, 2, 3]]
    assert same == [
        pytest.approx([0.9, 0.5, 0.1]),
        pytest.approx([0.6, 1 / 3, 0.1]),
        pytest.approx([0.6, 0.5, 0.15]),
        pytest.approx([0.6, 0.5, 0.1 / 1.5]),
    ]


drawn = st.lists(st.tuples(st.integers(1, LAYERS - 1), st.floats(0.02, 0.99)), min_size=1, max_size=4)


def draw_schedule(cuts):
    ratios = [1.0] * LAYERS
    for layer, ratio in cuts:
        ratios[layer] = ratio
    return tuple(np.minimum.accumulate(ratios).tolist())


@settings(deadline=None, max_examples=25)
@given(drawn, drawn, st.floats(0.3, 1.0), st.floats(1.05, 3.0))
def test_neighbours_are_schedules_within_the_budget(cuts, other, budget, factor):
    try:
        schedule = fit_to_budget(draw_schedule(cuts), COST, budget)
    except ConfigError:
        return
    found = neighbours(schedule, [draw_schedule(other)], COST, budget, factor)
    assert len(set(found)) == len(found)
    assert schedule not in found
    for neighbour in found:
        assert check_keep(neighbour, LAYERS) == neighbour
        assert neighbour[0] == 1.0
        assert COST.exact(neighbour) <= budget
    if budget < 0.9:
        assert found
        assert max(COST.exact(neighbour) for neighbour in found) > budget - 0.02, "none of it is left unused"


def test_what_cuts_too_late_for_a_budget_is_no_neighbour():
    schedule = fit_to_budget((1.0, 1.0, 0.2, 0.2, 0.2, 0.2), COST, 0.45)
    first = {cuts_of(neighbour)[0][0] for neighbour in neighbours(schedule, [(1.0,) * 5 + (0.5,)], COST, 0.45, 1.5)}
    assert first == {1, 2}


def test_the_next_budgets_are_taken_over():
    schedule = fit_to_budget((1.0, 0.4, 0.4, 0.4, 0.4, 0.4), COST, 0.5)
    other = (1.0, 1.0, 0.5, 0.4, 0.3, 0.2)
    assert fit_to_budget(other, COST, 0.5) in neighbours(schedule, [other], COST, 0.5, 1.5)
    assert fit_to_budget(other, COST, 0.5) not in neighbours(schedule, [], COST, 0.5, 1.5)


# --- rounds ----------------------------------------------------------------------------------------------------------


class Batch:
    """Samples by number; as much of a batch as polishing touches."""

    def __init__(self, rows):
        self.rows = rows

    def select(self, index):
        return Batch(self.rows[index])


class Toy:
    """KL out of a formula: a wall at layer 1, a price for every cut, and noise that is each sample's own."""

    def __init__(self, samples=90, batch=40, noise=0.05, seed=0):
        self.samples = list(range(samples))
        self.batches = [Batch(torch.arange(start, min(start + batch, samples))) for start in range(0, samples, batch)]
        self.noise, self.seed, self.log = noise, seed, []

    def evaluate(self, schedules):
        rows = torch.cat([batch.rows for batch in self.batches]).tolist()
        assert rows == self.samples, "samples and batches tell the same"
        self.log.append((list(schedules), rows))
        return [Quality(np.array([self.kl(s, row) for row in rows]), np.zeros(len(rows))) for s in schedules]

    def kl(self, schedule, row):
        keep = np.array(schedule)
        harm = (np.array([0, 3.0, 0.3, 1.0, 0.2, 0.1]) * (1 - keep) ** 2).sum() + 0.1 * len(cuts_of(schedule))
        own = np.random.default_rng([self.seed, row]).normal(size=LAYERS)
        return float(abs(harm * (1 + 0.3 * own[0]) + self.noise * (own * keep).sum()))


def start_of(budgets=BUDGETS):
    return {budget: fit_to_budget((1.0, 0.8, 0.6, 0.4, 0.3, 0.2), COST, budget) for budget in budgets}


def test_better_on_what_it_used_and_on_what_it_did_not():
    toy, fresh = Toy(), Toy(seed=1, samples=400)
    result = polish(start_of(), toy, COST, rounds=4, samples=64)
    assert list(result.schedules) == list(BUDGETS)
    assert result.accepted >= len(BUDGETS)
    for budget, schedule in result.schedules.items():
        assert check_keep(schedule, LAYERS) == schedule
        assert budget - 0.02 < COST.exact(schedule) <= budget
        assert result.after[budget] < result.before[budget]
        old, new = (np.mean([fresh.kl(s, row) for row in fresh.samples]) for s in (start_of()[budget], schedule))
        assert new < 0.8 * old


@settings(deadline=None, max_examples=12)
@given(
    st.integers(0, 10**6),
    st.floats(0.0, 3.0),
    st.integers(2, 90),
    st.integers(1, 3),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([bounded, np.square]),
)
def test_never_worse_whatever_the_noise(seed, noise, samples, rounds, errors, loss):
    toy = Toy(noise=noise, seed=seed)
    begin = start_of((0.45, 0.7))
    result = polish(begin, toy, COST, loss=loss, rounds=rounds, samples=samples, first=8, errors=errors, seed=seed)
    used = sorted({row for _, rows in toy.log for row in rows})
    assert len(used) == samples
    for budget, schedule in result.schedules.items():
        means = [loss(np.array([toy.kl(s, row) for row in used])).mean() for s in (begin[budget], schedule)]
        assert (result.before[budget], result.after[budget]) == pytest.approx(means)
        assert result.after[budget] <= result.before[budget]
        assert COST.exact(schedule) <= budget
        assert (schedule == begin[budget]) == (result.after[budget] == result.before[budget])


def test_the_seed_decides():
    first, again, other = (polish(start_of(), Toy(noise=1.0), COST, samples=30, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.before != other.before


def test_a_gain_within_its_error_is_none():
    """With enough errors nothing moves, and with chance alone less moves than without the rule."""
    begin = start_of()
    assert polish(begin, Toy(), COST, samples=64, errors=1e6).schedules == begin

    class Chance(Toy):
        def kl(self, schedule, row):
            return float(np.random.default_rng([self.seed, row, *(np.array(schedule) * 1e6).astype(int)]).random())

    moves = [polish(begin, Chance(), COST, samples=64, errors=errors).accepted for errors in (0.0, 4.0)]
    assert moves[0] >= len(begin)
    assert moves[1] <= 1


def test_a_lost_sample_counts_once():
    """A move that helps all but one, which it harms a lot."""
    assert bounded(np.array([0.0, math.log(2), 1e9])).tolist() == pytest.approx([0.0, 0.5, 1.0])
    begin = {0.5: fit_to_budget((1.0, 0.4, 0.4, 0.4, 0.4, 0.4), COST, 0.5)}

    class Outlier(Toy):
        def kl(self, schedule, row):
            moved = schedule != begin[0.5]
            return (50.0 if moved else 0.4) if row == 0 else (0.2 if moved else 0.4)

    assert polish(begin, Outlier(samples=64), COST, samples=64).accepted > 0
    assert polish(begin, Outlier(samples=64), COST, samples=64, loss=np.asarray).schedules == begin


def test_few_samples_first_and_nothing_twice():
    toy = Toy(samples=90)
    result = polish(start_of(), toy, COST, rounds=2, samples=80, first=5, growth=4)
    measured = [(schedule, row) for schedules, rows in toy.log for schedule in schedules for row in rows]
    assert len(set(measured)) == len(measured)
    rows = [rows for _, rows in toy.log]
    assert {len(part) for part in rows} == {5, 15, 60}
    assert len({tuple(part) for part in rows}) == 3
    assert len(set().union(*rows)) == 80
    times = {}
    for schedule, row in measured:
        times.setdefault(schedule, set()).add(row)
    numbers = [sum(len(seen) >= least for seen in times.values()) for least in (5, 20, 80)]
    assert numbers[0] == result.tried + len(start_of())
    assert numbers[2] < numbers[1] / 2 < numbers[0] / 4
    for schedule in start_of().values():
        assert len(times[schedule]) == 80


def test_one_evaluation_holds_the_neighbours_of_all_budgets():
    toy = Toy()
    polish(start_of(), toy, COST, rounds=1, samples=16, first=16)
    begin, pooled = (set(schedules) for schedules, _ in toy.log)
    assert begin == set(start_of().values())
    assert (
        pooled
        == {
            neighbour
            for (tight, old), (loose, new) in pairwise([(0, None), *start_of().items(), (1, None)])
            for budget, schedule in ((tight, old), (loose, new))
            if schedule and 0 < budget < 1
            for neighbour in neighbours(schedule, beside(budget), COST, budget, 1.5)
        }
        - begin
    )


def beside(budget):
    place = BUDGETS.index(budget)
    return [start_of()[other] for other in (*BUDGETS[:place][-1:], *BUDGETS[place + 1 : place + 2])]


def test_what_is_refused():
    with pytest.raises(ConfigError, match=r"costs more than its budget 0\.3; fit it"):
        polish({0.3: (1.0,) * LAYERS}, Toy(), COST)
    with pytest.raises(ConfigError, match="polish_samples = 1 is too few"):
        polish(start_of(), Toy(), COST, samples=1)
    assert polish(start_of(), Toy(samples=20), COST, samples=1000).before, "all there are"


# --- the embedded model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(*load_checkpoint("micro-llava"), load_samples("shapes", "validation", 24, seed=7), batch_size=10)


def test_on_a_model(evaluator):
    cost = evaluator.cost()
    begin = {budget: fit_to_budget((1.0, 1.0, *[0.3] * 6), cost, budget) for budget in (0.5, 0.7)}
    evaluator.ledger.forwards = 0.0
    result = polish(begin, evaluator, cost, rounds=1, samples=16, first=4)
    spent = evaluator.ledger.forwards
    for budget, schedule in result.schedules.items():
        assert cost.exact(schedule) <= budget
        assert result.after[budget] <= result.before[budget]
    assert result.after[0.5] < result.before[0.5], "layer 2 is a bad place, layer 3 a good one"
    assert 4 * 2 * 0.3 < spent < 16 * (result.tried + 2)
    drawn = np.sort(np.random.default_rng(0).permutation(24)[:16])
    whole = [bounded(quality.kl) for quality in evaluator.evaluate([*begin.values(), *result.schedules.values()])]
    means = [loss[drawn].mean() for loss in whole]
    assert [*result.before.values(), *result.after.values()] == pytest.approx(means, rel=1e-4)
