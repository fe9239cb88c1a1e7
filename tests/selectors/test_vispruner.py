"""VisPruner against a worked example and a slow twin."""

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.fastervlm import FasterVLM
from vispco.selectors.vispruner import VisPruner, cosines, deduplicate, rounds
from vispco.testing.signals import WIDTH, make_signals

ROW = [0.30, 0.05, 0.12, 0.25, 0.20, 0.08]
ANGLES = np.deg2rad([0.0, 10.0, 45.0, 90.0, 95.0, 170.0])


def inputs_of(row, hidden, valid=None):
    row, hidden = torch.as_tensor(row).float()[None], torch.as_tensor(np.asarray(hidden)).float()[None]
    valid = torch.ones(row.shape, dtype=torch.bool) if valid is None else valid
    return SelectorInputs(valid=valid, tower_row=row, tower_hidden=hidden)


EXAMPLE = inputs_of(ROW, np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1))


def kept(inputs, count, **parameters):
    chosen = VisPruner(**parameters).choose(inputs, torch.tensor([count]))
    return chosen[0].nonzero()[:, 0].tolist()


# --- worked examples -------------------------------------------------------------------------------------------------


def test_worked_example():
    """The pool is 4, 2, 5, 1; both of its even places go."""
    assert kept(EXAMPLE, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (6, [0, 1, 2, 3, 4, 5]),
        (5, [0, 1, 2, 3, 5]),  # of 4 and 5, 4 is nearer to 2 than 5 to anything (50 against 125 degrees)
        (3, [0, 4, 5]),  # the pool 3, 4, 2, 5, 1 is odd, and all three of its even places go at once
        (2, [0, 5]),  # 4 goes in a second round
        (1, [2]),  # nothing is important: 0, 4 and 5 go, then 3 and 1
    ],
)
def test_other_counts(count, expected):
    assert kept(EXAMPLE, count) == expected


def test_all_by_similarity():
    """Nothing is important and one stays: [0 3 4 2 5 1], less 0, 4 and 5, is [3 2 1]; less 3 and 1 it is [2]."""
    assert kept(EXAMPLE, 1, important=0) == [2]


def test_orders_differ_from_the_second_round_on():
    generator = np.random.default_rng(3)
    inputs = inputs_of(np.arange(40.0)[::-1].copy(), generator.standard_normal((40, 3)))
    for count in range(32, 41):
        assert kept(inputs, count, important=0) == kept(inputs, count, important=0, order="authors")
    assert kept(inputs, 8, important=0) != kept(inputs, 8, important=0, order="authors")


# --- slow twin -------------------------------------------------------------------------------------------------------


def twin(row, hidden, count, important, order):
    """One sample in the words of the definition; indices among its tokens."""

    def cosine(i, j):
        lengths = np.linalg.norm(hidden[i]) * np.linalg.norm(hidden[j])
        return round(hidden[i] @ hidden[j] / lengths * 2**24) if lengths else 0

    by_row = sorted(range(len(row)), key=lambda i: (-row[i], i))
    number = int(count * Fraction(str(important)))
    pool, goal = by_row[number:], count - number
    while len(pool) > goal:
        even, odd = pool[::2], pool[1::2]
        most = {i: max((cosine(i, j) for j in odd), default=-np.inf) for i in even}
        falling = sorted(even, key=lambda i: (-most[i], even.index(i)))
        gone = falling[: min(8, len(pool) - goal)]
        left = falling[len(gone) :]
        pool = [i for i in pool if i not in gone] if order == "attention" else left + odd
    return set(by_row[:number]) | set(pool)


@pytest.mark.parametrize("order", ["attention", "authors"])
def test_thousand_random_cases(order):
    """Samples of a batch need different numbers of rounds; every other batch is full of ties and zero vectors."""
    generator = np.random.default_rng(0)
    for case in range(25):
        tokens, width = int(generator.integers(0, 70)), int(generator.integers(1, 5))
        valid = generator.random((20, tokens)) < generator.random((20, 1)) * 1.6
        row, hidden = generator.random((20, tokens)), generator.standard_normal((20, tokens, width))
        if case % 2:
            row, hidden = np.floor(row * 6) / 8, np.sign(hidden).round() * (generator.random((20, tokens, 1)) < 0.9)
        row, hidden = row.astype(np.float32), hidden.astype(np.float32)
        counts = generator.integers(0, valid.sum(axis=1) + 1)
        important = (0.5, 0.7, 0.0, 1.0, 0.29)[case % 5]
        inputs = SelectorInputs(
            valid=torch.from_numpy(valid), tower_row=torch.from_numpy(row), tower_hidden=torch.from_numpy(hidden)
        )
        chosen = VisPruner(important, order).choose(inputs, torch.from_numpy(counts))
        for sample in range(20):
            places = valid[sample].nonzero()[0]
            expected = twin(
                row[sample, places], hidden[sample, places].astype(np.float64), int(counts[sample]), important, order
            )
            assert set(chosen[sample].nonzero()[:, 0].tolist()) == {int(places[i]) for i in expected}


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_rounds():
    """Eight at a time, the rest at the end, and no more than the even places of a small pool."""
    drops, widths = rounds(torch.tensor([40, 9, 12, 0]), torch.tensor([21, 0, 12, 0]))
    assert drops.T.tolist() == [[8, 8, 3, 0], [5, 2, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert widths == [40, 32, 24, 21, 21]
    drops, widths = rounds(torch.tensor([3]), torch.tensor([3]))
    assert (drops.shape, widths) == ((0, 1), [3])


@pytest.mark.parametrize("sort", [True, False])
def test_no_round_waits_for_the_device(sort):
    unit = torch.nn.functional.normalize(torch.randn(2, 50, 4, dtype=torch.float64), dim=-1)
    similar, there = cosines(unit), torch.ones(2, 50, dtype=torch.bool)
    drops, widths = rounds(torch.tensor([50, 50]), torch.tensor([5, 30]))
    waits = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero")
    with mock.patch.multiple(torch.Tensor, **{name: mock.Mock(side_effect=AssertionError(name)) for name in waits}):
        left = deduplicate(similar, there, drops, widths, sort)
    assert left.sum(dim=1).tolist() == [5, 30]


def test_cosines_of_more_rows_than_a_chunk():
    unit = torch.nn.functional.normalize(torch.randn(2, 300, 4, dtype=torch.float64), dim=-1)
    similar = cosines(unit)
    expected = torch.einsum("bid,bjd->bij", unit, unit)
    assert (similar[:, :-1, :-1] - expected).abs().max() <= 2**-25 + 1e-12
    assert similar[:, -1].isneginf().all()
    assert similar[:, :, -1].isneginf().all()


# --- properties ------------------------------------------------------------------------------------------------------


def test_all_important_is_fastervlm():
    inputs = make_signals(torch.rand(5, 12, generator=torch.Generator().manual_seed(0)) < 0.8, VisPruner.needs)
    for count in range(7):
        counts = inputs.valid.sum(dim=1).clamp(max=count)
        expected = FasterVLM().choose(inputs, counts)
        assert torch.equal(VisPruner(1).choose(inputs, counts), expected)
        assert count < 2 or not torch.equal(VisPruner(0).choose(inputs, counts), expected)


def test_one_of_two_duplicates_goes():
    """Twins stand side by side in the pool; the even one goes, and no token that has no twin."""
    hidden = np.eye(8)[[0, 0, 1, 1, 2, 2, 3, 4, 5, 6]]
    assert kept(inputs_of(np.arange(10.0)[::-1].copy(), hidden), 7, important=0) == [1, 3, 5, 6, 7, 8, 9]


def test_lengths_play_no_part():
    inputs = make_signals(torch.ones(3, 40, dtype=torch.bool), VisPruner.needs)
    lengths = torch.logspace(-18, 18, 40)[None, :, None]
    scaled = SelectorInputs(**{**vars(inputs), "tower_hidden": inputs.tower_hidden * lengths})
    counts = torch.tensor([7, 15, 30])
    assert torch.equal(VisPruner().choose(inputs, counts), VisPruner().choose(scaled, counts))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("count", [0, 3, 6])
def test_broken_numbers_are_refused_where_they_count(broken, count):
    hidden = EXAMPLE.tower_hidden.clone()
    hidden[0, 5, 1] = broken
    inputs = SelectorInputs(**{**vars(EXAMPLE), "tower_hidden": hidden})
    with pytest.raises(VispcoError, match="NaN"):
        kept(inputs, count)
    gone = torch.tensor([[True] * 5 + [False]])
    assert len(kept(SelectorInputs(**{**vars(inputs), "valid": gone}), min(count, 5))) == min(count, 5)


# --- cost and parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("visual", "count", "important"), [(9, 4, 0.5), (9, 4, 0.0), (200, 10, 0.5), (8, 4, 0.25)])
def test_flops_are_those_of_its_products(visual, count, important):
    inputs = make_signals(torch.ones(1, visual, dtype=torch.bool), VisPruner.needs)
    shape = DecoderShape(layers=1, hidden=WIDTH, heads=1, kv_heads=1, head_dim=WIDTH, mlp=1, vocabulary=1)
    selector = VisPruner(important)
    with FlopCounterMode(display=False) as counter:
        selector.choose(inputs, torch.tensor([count]))
    assert counter.get_total_flops() == selector.own_flops(Cut(shape, visual + 5, visual, count, 5))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half", True, None])
def test_shares_that_are_refused(value):
    with pytest.raises(ConfigError, match=r"^selector parameter important = .* is not a number in 0\.\.1; choose one$"):
        VisPruner(value)


@pytest.mark.parametrize("value", ["paper", "", None, ["authors"]])
def test_orders_that_are_refused(value):
    with pytest.raises(ConfigError, match=r"^selector parameter order = .* is unknown; choose one of attention, auth"):
        VisPruner(order=value)
