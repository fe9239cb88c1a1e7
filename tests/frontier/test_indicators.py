"""Indicators against closed forms and against slow definitions written out in numpy."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.errors import DataError
from vispco.frontier import best_at_cost, epsilon, hypervolume, igd_plus, pareto_front

COORDINATES = st.one_of(st.integers(-1, 9).map(lambda number: number / 8), st.floats(0, 1.25, allow_subnormal=False))
PAIRS = st.lists(st.tuples(COORDINATES, COORDINATES), max_size=12)


@pytest.fixture(scope="session")
def build(make_point):
    """Points from (cost, score) pairs, named by their index."""
    return lambda pairs: [make_point(cost, score, name=str(i)) for i, (cost, score) in enumerate(pairs)]


def slow_front(pairs):
    """Indices of pairs that none dominates, first of duplicates, by cost: the definition, pair by pair."""

    def beaten(i):
        for j, (cost, score) in enumerate(pairs):
            no_worse = cost <= pairs[i][0] and score >= pairs[i][1]
            if no_worse and (tuple(pairs[j]) != tuple(pairs[i]) or j < i):
                return True
        return False

    return sorted((i for i in range(len(pairs)) if not beaten(i)), key=lambda i: pairs[i][0])


def slow_hypervolume(pairs, reference):
    """Sum of the cells of the grid through all coordinates whose lower corner some pair dominates."""
    worst, least = reference
    costs = sorted({worst, *(cost for cost, _ in pairs if cost < worst)})
    scores = sorted({least, *(score for _, score in pairs if score > least)})
    area = 0.0
    for left, right in pairwise(costs):
        for low, high in pairwise(scores):
            if any(cost <= left and score >= high for cost, score in pairs):
                area += (right - left) * (high - low)
    return area


def gaps(pairs, reference):
    """Losses of every pair minus those of every member of the reference front, shape (front, pairs, 2)."""
    losses, front = (np.array(p, dtype=float) * [1, -1] for p in (pairs, [reference[i] for i in slow_front(reference)]))
    return losses[None] - front[:, None]


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS, reference=st.tuples(st.sampled_from([0.5, 1.0, 1.25]), st.sampled_from([-0.25, 0.0, 0.5])))
def test_front_and_hypervolume_match_definitions(build, pairs, reference):
    points = build(pairs)
    before = [point.model_dump() for point in points]
    front = pareto_front(points)
    assert [int(point.name) for point in front] == slow_front(pairs)
    assert hypervolume(points, reference=reference) == pytest.approx(slow_hypervolume(pairs, reference), abs=1e-12)
    assert hypervolume(front, reference=reference) == pytest.approx(hypervolume(points, reference=reference), abs=1e-12)
    assert [point.model_dump() for point in points] == before


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS.filter(bool), reference=PAIRS.filter(bool))
def test_distances_to_front_match_definitions(build, pairs, reference):
    points, front = build(pairs), build(reference)
    short = gaps(pairs, reference)
    expected = np.linalg.norm(np.maximum(short, 0), axis=2).min(axis=1).mean()
    assert igd_plus(points, front) == pytest.approx(expected, abs=1e-12)
    assert epsilon(points, front) == pytest.approx(short.max(axis=2).min(axis=1).max(), abs=1e-12)
    assert igd_plus(points, points) == 0.0
    assert epsilon(points, points) == 0.0


def test_closed_forms(build):
    front = build([(0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.75, 0.5)])
    assert [point.name for point in pareto_front(front)] == ["1", "0", "2"]
    assert hypervolume(front) == pytest.approx(0.75 * 0.25 + 0.5 * 0.25 + 0.25 * 0.25)
    worse = build([(0.5, 0.25)])
    assert igd_plus(worse, build([(0.25, 0.5)])) == pytest.approx(math.hypot(0.25, 0.25))
    assert epsilon(worse, build([(0.25, 0.375)])) == pytest.approx(0.25)
    assert epsilon(build([(0.25, 0.5)]), worse) == pytest.approx(-0.25)


def test_dominated_reference_points_do_not_dilute(build):
    points, ideal = build([(0.5, 0.5)]), (0.25, 0.5)
    assert igd_plus(points, build([ideal, (0.75, 0.25), (0.9, 0.1)])) == igd_plus(points, build([ideal])) == 0.25


@pytest.mark.parametrize(
    ("pair", "area"),
    [((1.0, 0.9), 0.0), ((0.2, 0.0), 0.0), ((1.2, 0.9), 0.0), ((0.2, -0.1), 0.0), ((0.0, 1.0), 1.0), ((-0.5, 1), 1.5)],
)
def test_reference_edge(build, pair, area):
    assert hypervolume(build([pair])) == pytest.approx(area)


def test_duplicates_keep_the_first_and_lose_nothing_else(build):
    points = build([(0.5, 0.0), (0.2, -0.0), (0.2, 0.0), (0.2, 0.0), (0.6, 0.4), (0.6, 0.4)])
    assert [point.name for point in pareto_front(points)] == ["1", "4"]
    assert pareto_front(points)[0] is points[1]


def test_empty_sets(build):
    some = build([(0.5, 0.5)])
    assert pareto_front([]) == []
    assert hypervolume([]) == 0.0
    assert best_at_cost([], 1.0) is None
    for indicator in (igd_plus, epsilon):
        with pytest.raises(DataError, match=r"^points is empty"):
            indicator([], some)
        with pytest.raises(DataError, match=r"^reference_front is empty"):
            indicator(some, [])


def calls(points):
    """Every public function on the points; the set functions also as reference."""
    return [
        lambda **keys: pareto_front(points, **keys),
        lambda **keys: best_at_cost(points, 1.0, **keys),
        lambda **keys: hypervolume(points, **keys),
        lambda **keys: igd_plus(points, points[:1], **keys),
        lambda **keys: epsilon(points[:1], points, **keys),
    ]


@pytest.mark.parametrize("which", range(5))
def test_bad_numbers_are_refused_by_name(build, make_point, which):
    good = build([(0.5, 0.5)])
    for bad in (math.nan, math.inf):
        unchecked = good[0].model_copy(update={"name": "odd", "quality": {"score": bad}})
        with pytest.raises(DataError, match=f"'odd': quality 'score' is {bad}"):
            calls([*good, unchecked])[which]()
    with pytest.raises(DataError, match=r"'0' has no cost 'latency'; choose one of \['flops'\]"):
        calls(good)[which](cost="latency")
    with pytest.raises(DataError, match=r"'0' has no quality 'accuracy'; choose one of \['score'\]"):
        calls(good)[which](quality="accuracy")
    with pytest.raises(DataError, match="do not merge: dtype"):
        calls([*good, make_point(dtype="bfloat16")])[which]()


def test_costs_of_another_basis_are_refused_by_name(make_point):
    first, second, third = (
        make_point(name=name, basis={"flops": table}) for name, table in (("a", "one"), ("b", "one"), ("c", "other"))
    )
    for points in ([first, second, third], [first, third, second]):
        with pytest.raises(DataError, match="is of one in 'a' and of other in 'c', which do not compare"):
            pareto_front(points)
    assert pareto_front([first, second]) == [first]


def test_other_keys_are_used(make_point):
    points = [
        make_point(0.1, 0.9, name="a", costs={"flops": 0.1, "kv": 0.9}, quality={"score": 0.9, "vqa": 0.1}),
        make_point(0.9, 0.1, name="b", costs={"flops": 0.9, "kv": 0.1}, quality={"score": 0.1, "vqa": 0.9}),
    ]
    keys = {"cost": "kv", "quality": "vqa"}
    assert pareto_front(points) == [points[0]]
    assert pareto_front(points, **keys) == [points[1]]
    assert best_at_cost(points, 1.0, **keys) is points[1]
    assert hypervolume(points, **keys) == pytest.approx(0.81)
    assert igd_plus(points[:1], points, **keys) == pytest.approx(math.hypot(0.8, 0.8))
    assert epsilon(points[:1], points, **keys) == pytest.approx(0.8)


def test_distances_are_minimised(make_point):
    points = [make_point(cost, quality={"kl": kl}) for cost, kl in [(0.5, 0.25), (0.75, 0.5), (0.75, 0.0)]]
    assert pareto_front(points, quality="kl") == [points[0], points[2]]
    assert best_at_cost(points, 1.0, quality="kl") is points[2]
    area = hypervolume(points, quality="kl", reference=(1.0, 0.5))
    assert area == pytest.approx(0.5 * 0.25 + 0.25 * 0.25)
    assert epsilon(points[1:2], points[:1], quality="kl") == pytest.approx(0.25)
    with pytest.raises(DataError, match="no kl is below 0; give reference="):
        hypervolume(points, quality="kl")


@pytest.mark.parametrize("reference", [(math.nan, 0.0), (1.0, math.nan), (math.inf, 0.0)])
def test_reference_must_be_finite(build, reference):
    with pytest.raises(DataError, match=r"reference .* is not finite"):
        hypervolume(build([(0.5, 0.5)]), reference=reference)


@pytest.mark.parametrize(
    ("limit", "name"), [(0.1, None), (0.2, "3"), (0.5, "1"), (0.599, "1"), (0.6, "4"), (math.inf, "4")]
)
def test_best_at_cost_with_ties(build, limit, name):
    points = build([(0.5, 0.7), (0.4, 0.7), (0.4, 0.7), (0.2, 0.3), (0.6, 0.8), (0.9, 0.8)])
    best = best_at_cost(points, limit)
    assert (best and best.name) == name


def test_best_at_cost_refuses_nan_limit(build):
    with pytest.raises(DataError, match="limit is nan"):
        best_at_cost(build([(0.5, 0.5)]), math.nan)
