"""The program over single cuts: against all schedules, a mixed-integer solver, and the exact cost."""

import time
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from vispco.cost import FlopCost
from vispco.errors import BudgetError, ConfigError
from vispco.schedule import check_keep
from vispco.search import CutProgram, monotone_schedules

SAMPLES = [(5, 25, 1, 4), (7, 25, 1, 4), (7, 25, 1, 4), (4, 40, 3, 2)]
LADDER = (0.7, 0.4, 0.15, 0.05)


def model(layers):
    config = LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=80, num_hidden_layers=layers, num_attention_heads=4
    )
    config.vision_config = SimpleNamespace(deepstack_visual_indexes=[0, 1, 2])
    return config


def merging(cut):
    """Choosing that costs more at early layers, and with what is kept."""
    return 3 * cut.attention_row + 50.0 * cut.streams * cut.visual * cut.kept


def make(layers, ladder=LADDER, selection=2, samples=SAMPLES):
    return CutProgram(FlopCost(model(layers), samples, selection), layers, ladder)


def harm(program, kl, schedule):
    """What the program predicts, by its formula."""
    table = np.asarray(kl).reshape(program.layers - 1, -1)
    known = np.log(program.levels)[::-1]
    cuts = [(layer, after / before) for layer, (before, after) in enumerate(pairwise(schedule)) if after < before]
    return sum(np.interp(np.log(share), known, [*table[layer, ::-1], 0.0]) for layer, share in cuts)


# --- the program -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 6),
    st.sets(st.integers(2, 99), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.sampled_from([0, 1, merging]),
    st.sampled_from([3, 100, 10**9]),
    st.booleans(),
)
@example(5, {56, 2, 31, 15}, 492, 0, 3, False)  # thirds, which tie but for their rounding
def test_every_budget_against_all_schedules(layers, percent, seed, selection, grain, sorted_rows):
    """Scores from coarse, which tie, to fine; rows that rise with the cut and rows that do not."""
    program = make(layers, [value / 100 for value in percent], selection)
    random = np.random.default_rng(seed)
    table = random.integers(0, grain, (layers - 1, len(percent))) / grain
    kl = (np.sort(table) if sorted_rows else table).ravel()
    schedules = monotone_schedules(layers, program.levels)
    costs = np.array([program.cost.exact(schedule) for schedule in schedules])
    harms = np.array([harm(program, kl, schedule) for schedule in schedules])
    assert program.least == pytest.approx(costs.min(), abs=1e-9)
    front = program.solve(kl)
    for budget in [costs.min() + 1e-9, 1.0, *random.uniform(costs.min(), 1.0, 8)]:
        found = front.at(budget)
        assert found.budget == budget
        assert found.score == pytest.approx(harms[costs <= budget].min(), abs=1e-9)
        assert found.score == pytest.approx(harm(program, kl, found.raw), abs=1e-9)
        assert found.raw in schedules
        best = (costs <= budget) & (harms <= found.score + 1e-9)
        assert program.cost.exact(found.raw) == pytest.approx(costs[best].min(), abs=1e-9), "of equal ones the cheapest"


@pytest.mark.parametrize("selection", [0, 2, merging])
@pytest.mark.parametrize("layers", [2, 5, 9])
def test_costs_are_the_exact_ones(layers, selection):
    """Of every schedule on a front, whatever its cuts; mean over kinds of samples, some with several images."""
    program = make(layers, selection=selection)
    kl = np.geomspace(1, 0.01, layers - 1)[:, None] * (1 - np.array(LADDER)) ** 2
    front = program.solve(kl.ravel())
    assert len(front) > layers
    cuts = set()
    for cost, score, schedule in (front[place] for place in range(len(front))):
        assert check_keep(schedule, layers) == schedule
        assert cost == pytest.approx(program.cost.exact(schedule), abs=1e-9)
        assert score == pytest.approx(harm(program, kl, schedule), abs=1e-9)
        cuts.add(len(set(schedule)))
    assert len(cuts) > min(3, layers - 1), "one cut and several"


def falls(front):
    for (cost, score, _), (more, less, _) in pairwise(front[place] for place in range(len(front))):
        assert more > cost
        assert less < score


def test_the_front_falls():
    program = make(6)
    front = program.solve(np.random.default_rng(0).random(len(program.cuts)))
    falls(front)
    assert front[len(front) - 1][1:] == (0.0, (1.0,) * 6)
    assert front[0][0] == pytest.approx(program.least)
    with pytest.raises(IndexError):
        front[len(front)]


def test_of_equal_cost_only_the_better_stays():
    """Two rungs that leave as many tokens; the deeper one was measured to do less harm."""
    program = make(6, (0.51, 0.5, 0.2), samples=[(5, 25, 1, 4)])
    front = program.solve((np.geomspace(1, 0.01, 5)[:, None] * [1.0, 0.9, 3.0]).ravel())
    falls(front)
    assert len(front) > 6
    assert 0.51 not in {ratio for place in range(len(front)) for ratio in front[place][2]}


def test_a_single_cut_scores_what_was_measured():
    """Where any second cut is forbidden by its price, and costs leave the last rung of every layer alone."""
    program = make(4, [0.5, 0.25])
    assert program.cuts[0] == (1.0, 0.5, 0.5, 0.5)
    kl = [0.9, 1.2, 0.35, 0.5, 0.1, 0.3]
    for cut, measured in zip(program.cuts, kl, strict=True):
        alone = [measured if other == cut else 10.0 for other in program.cuts]
        found = program.solve(alone).at(program.cost.exact(cut))
        assert found.raw == cut
        assert found.score == pytest.approx(measured)


def test_several_cuts_score_by_the_shares_that_they_leave():
    """0.5 and then 0.25 is half of the half: worked by hand."""
    program = make(3, [0.5, 0.25])
    kl = [0.2, 5.0, 0.3, 5.0]
    found = program.solve(kl).at(program.cost.exact((1.0, 0.5, 0.25)))
    assert found.raw == (1.0, 0.5, 0.25)
    assert found.score == pytest.approx(0.2 + 0.3)


def test_another_solver_agrees():
    """HiGHS on paths through (layer, ratio), too many for brute force."""
    optimize = pytest.importorskip("scipy.optimize")
    layers, ladder = 12, np.geomspace(0.8, 0.05, 5).tolist()
    program = make(layers, ladder)
    random = np.random.default_rng(3)
    kl = np.sort(random.random((layers - 1, len(ladder)))).ravel()
    front, known = program.solve(kl), np.log(program.levels)[::-1]
    number, table = len(program.levels), kl.reshape(layers - 1, -1)
    arcs = [(layer, a, b) for layer in range(1, layers) for a in range(number) for b in range(a, number)]
    score = [
        np.interp(np.log(program.levels[b] / program.levels[a]), known, [*table[layer - 1, ::-1], 0.0])
        for layer, a, b in arcs
    ]
    flow = np.zeros((layers * number, len(arcs)))
    for place, (layer, a, b) in enumerate(arcs):
        flow[(layer - 1) * number + a, place] += 1  # leaves layer - 1 at ratio a
        flow[layer * number + b, place] -= 1
    ends = np.zeros(layers * number)
    ends[0] = 1
    inner = slice(0, (layers - 1) * number)
    spent = np.array([program.changes[arc] for arc in arcs]) * 1e-12
    for budget in (0.3, 0.45, 0.7):
        solved = optimize.milp(
            score, integrality=np.ones(len(arcs)), bounds=optimize.Bounds(0, 1), options={"mip_rel_gap": 0.0},
            constraints=[
                optimize.LinearConstraint(flow[inner], ends[inner], ends[inner]),
                optimize.LinearConstraint(spent, -np.inf, budget - 1.0),
            ],
        )  # fmt: skip
        assert front.at(budget).score == pytest.approx(solved.fun, abs=1e-6)


def test_deep_models_take_seconds():
    layers, ladder = 32, np.geomspace(0.9, 0.02, 9).tolist()
    before = time.process_time()
    program = make(layers, ladder, samples=[(50, 576), (60, 576)])
    for kl in (
        np.exp(-np.arange(layers - 1) / 6)[:, None] * (1 - np.array(ladder)) ** 2,
        np.random.default_rng(0).random((layers - 1, 9)),
    ):
        front = program.solve(kl.ravel())
        assert program.cost.exact(front.at(0.5).raw) <= 0.5
    assert time.process_time() - before < 20


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_budgets_hold_and_the_rest_is_filled():
    program = make(6)
    front = program.solve(np.random.default_rng(1).random(len(program.cuts)))
    for budget in np.linspace(program.least, 1.0, 40):
        found = front.at(budget)
        assert program.cost.exact(found.raw) <= program.cost.exact(found.schedule) <= budget
        assert check_keep(found.schedule, 6) == found.schedule
        assert all(filled >= ratio - 1e-6 for filled, ratio in zip(found.schedule, found.raw, strict=True))
    tokens = 1 / 40
    assert program.cost.exact(front.at(0.5).schedule) > 0.5 - tokens


def test_exactly_the_cost_of_a_schedule_is_enough():
    """Though costs are compared in units of their own."""
    program = make(5)
    front = program.solve(np.random.default_rng(2).random(len(program.cuts)))
    for place in range(len(front)):
        _, score, schedule = front[place]
        assert front.at(program.cost.exact(schedule)).raw == schedule
        found = front.at(np.nextafter(program.cost.exact(schedule), 0)) if place else None
        assert found is None or found.score > score, "a budget is a limit to the last digit"


def test_what_cannot_be_reached_is_refused_with_what_can():
    program = make(6, [0.5, 0.2])
    least = min(program.cost.exact(schedule) for schedule in monotone_schedules(6, [0.5, 0.2]))
    front = program.solve(np.ones(len(program.cuts)))
    assert front.at(least + 1e-9).raw == (1.0, *[0.2] * 5)
    for refused in (lambda: front.at(least - 1e-6), lambda: program.check_budgets([0.9, least - 1e-6, 0.5])):
        with pytest.raises(BudgetError, match=rf"is below {least:.4f}, the least that ladder \[1\.0, 0\.5, 0\.2\]"):
            refused()
    program.check_budgets([0.9, least + 1e-9])


def test_equal_scores_always_give_the_same():
    """All of one score, and all of none: the cheapest."""
    for value in (0.0, 0.5):
        programs = [make(5), make(5)]
        first, again = (program.solve(np.full(len(program.cuts), value)) for program in programs)
        assert [first[place] for place in range(len(first))] == [again[place] for place in range(len(again))]
        assert first.at(0.8).raw == (1.0, *[0.05] * 4)


@pytest.mark.parametrize("ladder", [(), (1.0,), (0.5, 0.0), (0.5, 1.5)])
def test_bad_ladders(ladder):
    with pytest.raises(ConfigError, match="ladder"):
        make(4, ladder)
