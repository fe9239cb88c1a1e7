"""Ratios become counts as on paper: half up, once, against the original number of tokens."""

import random
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.errors import ConfigError
from vispco.schedule import check_keep, cut_layers, keep_counts

decimals = st.decimals(0, 1, places=3) | st.decimals(0, 1, places=6)
ratios = st.floats(0.0, 1.0, allow_subnormal=False)
schedules = st.lists(ratios, min_size=1, max_size=12).map(lambda keep: sorted(keep, reverse=True))


def on_paper(ratio: Decimal, total: int, floor: int = 1) -> int:
    if ratio == 0:
        return 0
    rounded = int((ratio * total).quantize(Decimal(1), rounding=ROUND_HALF_UP))
    return min(max(rounded, floor), total)


@pytest.mark.parametrize(
    ("ratio", "total", "count"),
    [
        ("0.145", 100, 15),  # 14.499999999999998 in binary
        ("0.35", 10, 4),
        ("0.285", 100, 29),  # 28.499999999999996 in binary
        ("0.5", 577, 289),
        ("0.5", 5, 3),  # to the even neighbour it would be 2
        ("0.25", 2, 1),
        ("0.1449", 100, 14),
        ("0.00149999999", 1000, 1),  # below a half, though by little
        ("1", 576, 576),
    ],
)
def test_halves_go_up(ratio, total, count):
    assert on_paper(Decimal(ratio), total) == count
    assert keep_counts([float(ratio)], total).tolist() == [count]


@settings(deadline=None, max_examples=100)
@given(st.lists(decimals, min_size=30, max_size=30), st.integers(1, 100_000), st.integers(1, 4))
def test_counts_as_on_paper(values, total, floor):
    counts = keep_counts([float(value) for value in values], total, floor)
    assert counts.tolist() == [on_paper(value, total, floor) for value in values]


@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_counts_as_on_paper(seed):
    """A thousand cases per seed: ratios of one to eight decimal places, as people and programs write them."""
    draw = random.Random(seed)
    for total in draw.sample(range(1, 10_000), 50):
        floor = draw.randint(1, 4)
        places = [draw.randint(1, 8) for _ in range(20)]
        values = sorted(Decimal(draw.randint(0, 10**number)).scaleb(-number) for number in places)
        counts = keep_counts([float(value) for value in values], total, floor).tolist()
        assert counts == [on_paper(value, total, floor) for value in values], f"N = {total}, floor = {floor}"
        assert counts == sorted(counts), "more generous ratios keep no less"
        assert all(count >= 1 for value, count in zip(values, counts, strict=True) if value > 0)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([5, 10, 16, 25, 64, 100, 125, 256, 640, 1000, 2500, 4000]), st.data())
def test_every_half_goes_up(total, data):
    below = data.draw(st.integers(0, total - 1))
    ratio = (Decimal(below) + Decimal("0.5")) / total  # finite: these totals have no prime factors but 2 and 5
    assert keep_counts([float(ratio)], total).tolist() == [below + 1] == [on_paper(ratio, total)]


def test_floor_and_zero():
    assert keep_counts([1.0, 1e-9, 0.0], 576).tolist() == [576, 1, 0]
    assert keep_counts([1.0, 1e-9, 0.0], 576, floor=4).tolist() == [576, 4, 0]
    assert keep_counts([0.5, 0.0], 0).tolist() == [0, 0]
    assert keep_counts([0.5], 2, floor=4).tolist() == [2]


@settings(deadline=None, max_examples=200)
@given(schedules, st.lists(st.integers(0, 3000), min_size=1, max_size=4))
def test_counts_never_rise_with_depth(keep, totals):
    counts = keep_counts(check_keep(keep), totals)
    assert counts.shape == (len(keep), len(totals))
    assert (counts.diff(dim=0) <= 0).all()
    assert (counts >= 0).all()
    assert (counts <= torch.tensor(totals)).all()
    for column, total in enumerate(totals):
        assert counts[:, column].tolist() == keep_counts(keep, total).tolist()


@settings(deadline=None, max_examples=100)
@given(schedules, st.integers(0, 3000), st.data())
def test_more_generous_keeps_no_less(keep, total, data):
    share = data.draw(st.floats(0.0, 1.0))
    more = [ratio + (1 - ratio) * share for ratio in keep]
    assert (keep_counts(more, total) >= keep_counts(keep, total)).all()
    assert (keep_counts(keep, total + 1) >= keep_counts(keep, total)).all()


def test_shapes():
    many = torch.rand(3, 2, 5)
    assert keep_counts([1.0, 0.5], 10).shape == (2,)
    assert keep_counts([1.0, 0.5], [10]).shape == (2, 1)
    assert keep_counts(many, 10).shape == (3, 2, 5)
    counts = keep_counts(many, torch.tensor([10, 20, 30]))
    assert counts.shape == (3, 2, 5, 3)
    assert counts.dtype == torch.int64
    assert torch.equal(counts[2, 1, :, 1], keep_counts(many[2, 1], 20))
    assert keep_counts([0.5], torch.tensor([10, 20], dtype=torch.int32)).dtype == torch.int64


def test_cut_layers():
    assert cut_layers(torch.tensor([9, 9, 4, 4, 1])) == [2, 4]
    assert cut_layers(torch.tensor([[9, 5], [9, 4], [9, 4], [8, 4]])) == [1, 3], "a cut of any sample is one"
    assert cut_layers(torch.tensor([3, 3])) == []
    assert cut_layers(torch.tensor([3])) == []


def test_check_keep_returns_plain_floats():
    checked = check_keep([1, torch.tensor(0.5), 0])
    assert checked == (1.0, 0.5, 0.0)
    assert [type(ratio) for ratio in checked] == [float] * 3
    assert check_keep((0.5, 0.5), layers=2) == (0.5, 0.5)
    assert str(check_keep([-0.0])) == "(0.0,)", "equal schedules print alike"


@pytest.mark.parametrize(
    ("keep", "layers", "message"),
    [
        ([], None, r"^keep is empty; give one ratio"),
        ([1.0, 0.5], 3, r"^keep has 2 ratios but the model has 3 decoder layers; give one"),
        ([1.0, 0.5], 1, r"^keep has 2 ratios but the model has 1 decoder layers; give one"),
        ([1.01], None, r"^keep\[0\] = 1\.01 is outside 0\.\.1; give"),
        ([1.0, -0.1], None, r"^keep\[1\] = -0\.1 is outside 0\.\.1; give"),
        ([1.0, float("nan")], None, r"^keep\[1\] = nan is outside 0\.\.1; give"),
        ([float("inf")], None, r"^keep\[0\] = inf is outside 0\.\.1; give"),
        ([1.0, 0.25, 0.5], None, r"^keep\[2\] = 0\.5 is above keep\[1\] = 0\.25; a token that was dropped"),
    ],
)
def test_check_keep_refuses(keep, layers, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_keep(keep, layers)
    assert "\n" not in str(caught.value)
