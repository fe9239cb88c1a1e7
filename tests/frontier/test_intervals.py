"""Bootstrap intervals: coverage, determinism, pairing and refusals."""

import math

import numpy as np
import pytest

from vispco.errors import DataError, InputError
from vispco.frontier import Interval, bootstrap_mean, intervals, paired_difference, paired_ratio

RNG_SEED = 11


def test_matches_a_plain_loop():
    values = np.random.default_rng(RNG_SEED).normal(size=13)
    rng = np.random.default_rng(5)
    means = [np.mean([values[i] for i in rng.integers(0, 13, size=13)]) for _ in range(200)]
    expected = (values.mean(), np.quantile(means, 0.05), np.quantile(means, 0.95))
    assert bootstrap_mean(values, resamples=200, level=0.9, seed=5) == pytest.approx(expected)


def test_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(RNG_SEED).normal(2.0, 3.0, size=400)
    value, low, high = bootstrap_mean(values, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(values.size)
    assert value == pytest.approx(values.mean())
    assert (value - low, high - value) == pytest.approx((half, half), rel=0.08)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_coverage(level):
    """Of 300 data sets with a known mean about ``level`` are covered; the tolerance is 3.5 standard errors."""
    rng = np.random.default_rng(RNG_SEED)
    trials = 300
    hits = 0
    for trial in range(trials):
        answers = rng.random(60) < 0.7
        _, low, high = bootstrap_mean(answers, resamples=400, level=level, seed=trial)
        hits += low <= 0.7 <= high
    assert abs(hits / trials - level) < 3.5 * math.sqrt(level * (1 - level) / trials)


def test_deterministic_by_seed_and_input_kept():
    values = np.random.default_rng(RNG_SEED).random(40)
    before = values.copy()
    first = bootstrap_mean(values)
    assert isinstance(first, Interval)
    assert all(type(number) is float for number in first)
    assert first == bootstrap_mean(list(values), seed=0) != bootstrap_mean(values, seed=1)
    assert (values == before).all()


@pytest.mark.parametrize("block", [1, 100, 1600, 8000])
def test_block_size_bounds_memory_and_changes_nothing(monkeypatch, block):
    """Blocks of less than one, of a few and of all resamples give the same interval."""
    values = np.random.default_rng(RNG_SEED).random(40)
    whole = bootstrap_mean(values, resamples=150)
    sizes = []

    class Spy:
        def __init__(self, seed):
            self.rng = np.random.Generator(np.random.PCG64(seed))

        def integers(self, low, high, size):
            sizes.append(math.prod(size))
            return self.rng.integers(low, high, size=size)

    monkeypatch.setattr(intervals, "BLOCK", block)
    monkeypatch.setattr(np.random, "default_rng", Spy)
    assert bootstrap_mean(values, resamples=150) == whole
    assert max(sizes) <= max(block, 40)
    assert sum(sizes) == 150 * 40


def test_constant_and_single_values_have_no_width():
    assert bootstrap_mean([0.5] * 9) == (0.5, 0.5, 0.5)
    assert bootstrap_mean([3]) == (3.0, 3.0, 3.0)


def test_higher_level_is_wider():
    values = np.random.default_rng(RNG_SEED).random(40)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_pairing_is_tighter_when_samples_correlate():
    rng = np.random.default_rng(RNG_SEED)
    hard = rng.normal(size=200)
    a, b = hard + 0.1 * rng.normal(size=200) + 0.1, hard + 0.1 * rng.normal(size=200)
    paired = paired_difference(a, b)
    alone = [bootstrap_mean(a), bootstrap_mean(b, seed=1)]
    unpaired_width = math.hypot(*(interval.high - interval.low for interval in alone))
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.low > 0.0, "a is better, and pairing shows it"
    assert paired.high - paired.low < 0.2 * unpaired_width


def test_paired_difference_passes_its_settings_on():
    rng = np.random.default_rng(RNG_SEED)
    a, b = rng.random(30), rng.random(30)
    settings = {"resamples": 50, "level": 0.6, "seed": 4, "clusters": np.arange(30) // 3}
    assert paired_difference(a, b, **settings) == bootstrap_mean(a - b, **settings)
    swapped = paired_difference(b, a, **settings)
    assert (-swapped.value, -swapped.high, -swapped.low) == pytest.approx(paired_difference(a, b, **settings))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"shape \(0,\); give one value per sample"),
        ([[0.1, 0.2]], r"shape \(1, 2\)"),
        (0.5, r"shape \(\)"),
        ([0.1, math.nan, 0.2, math.inf], r"\[1\] is nan"),
        ([0.1, 0.2, -math.inf], r"\[2\] is -inf"),
    ],
)
def test_refuses_values(values, message):
    with pytest.raises(DataError, match=f"values.*{message}"):
        bootstrap_mean(values)
    with pytest.raises(DataError, match=f"b.*{message}"):
        paired_difference([0.5], values)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"resamples": 0}, "resamples 0 is below 1"),
        ({"level": 1.0}, "level 1.0 is outside 0..1"),
        ({"level": 0.0}, "level 0.0 is outside"),
        ({"level": math.nan}, "level nan is outside"),
    ],
)
def test_refuses_settings(setting, message):
    with pytest.raises(InputError, match=message):
        bootstrap_mean([0.1, 0.2], **setting)


def test_pairs_must_be_of_one_length():
    with pytest.raises(DataError, match="a has 2 values but b has 1; score both on the same samples"):
        paired_difference([0.1, 0.2], [0.1])


def test_pictures_are_drawn_whole():
    """By hand: two pictures, one right in all its three questions, one wrong in its single one."""
    scores, pictures = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    whole = bootstrap_mean(scores, clusters=pictures, level=0.9, resamples=4000)
    assert whole == (0.75, 0.0, 1.0), "a quarter of the draws has picture b alone, another picture a alone"
    middle = bootstrap_mean(scores, clusters=pictures, level=0.4, resamples=4000)
    assert middle == (0.75, 0.75, 0.75), "half of the draws has both"


def test_one_cluster_each_changes_nothing():
    values = np.random.default_rng(RNG_SEED).random(40)
    assert bootstrap_mean(values, clusters=np.arange(40)) == pytest.approx(bootstrap_mean(values))
    ratio = paired_ratio(values, values + 1)
    assert paired_ratio(values, values + 1, clusters=np.arange(40)) == pytest.approx(ratio)


def test_dependent_questions_are_less_evidence():
    rng = np.random.default_rng(RNG_SEED)
    pictures = np.repeat(np.arange(30), 10)
    scores = np.repeat(rng.integers(0, 2, 30), 10).astype(float)
    naive, honest = bootstrap_mean(scores), bootstrap_mean(scores, clusters=pictures)
    assert honest.value == naive.value
    # A tenth of the evidence, so sqrt(10) times the width.
    assert (honest.high - honest.low) / (naive.high - naive.low) == pytest.approx(10**0.5, rel=0.15)


def test_what_is_not_said_is_what_the_docs_say():
    """Two thousand draws of seed 0, 95 %: numbers in papers do not name them."""
    rng = np.random.default_rng(RNG_SEED)
    a, b = rng.random(30), rng.random(30) + 0.5
    said = {"resamples": 2000, "level": 0.95, "seed": 0}
    assert bootstrap_mean(a) == bootstrap_mean(a, **said)
    assert paired_difference(a, b) == paired_difference(a, b, **said)
    assert paired_ratio(a, b) == paired_ratio(a, b, **said)


def test_one_draw_is_enough():
    interval = bootstrap_mean([0.0, 1.0, 3.0], resamples=1)
    assert interval.low == interval.high


def test_ratio_of_means():
    rng = np.random.default_rng(RNG_SEED)
    b = rng.random(400) + 0.5
    interval = paired_ratio(0.8 * b, b)
    assert interval == pytest.approx((0.8, 0.8, 0.8)), "every draw has it, because both are of the same samples"
    a = 0.8 * b + 0.1 * rng.normal(size=400)
    interval = paired_ratio(a, b)
    assert interval.value == pytest.approx(a.mean() / b.mean())
    spread = np.std(a - interval.value * b) / b.mean() / 20  # delta method
    assert (interval.high - interval.low) == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_nothing_to_take_a_fraction_of():
    assert paired_ratio([1.0, 0.0], [0.0, 0.0]) is None
    assert paired_ratio([1.0, 0.0], [0.0, 1.0]) is None, "some draws have the first sample alone"
    assert paired_ratio([0.0, 1.0], [1.0, 1.0]) == (0.5, 0.0, 1.0), "a fraction of 0 is one"


@pytest.mark.parametrize("labels", [[1], [[1, 2]], []])
def test_refuses_clusters(labels):
    with pytest.raises(DataError, match=r"clusters has shape .* for 2 values; give one label per sample"):
        bootstrap_mean([0.1, 0.2], clusters=labels)
