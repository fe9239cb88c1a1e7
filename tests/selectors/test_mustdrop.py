"""MustDrop against an example by hand, a slow twin, and the method's own rule at given thresholds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.mustdrop import MustDrop


def inputs_of(rows, tower, valid=None, asked=None, places=None):
    """Inputs from attention (batch, question, visual) and the tower's (batch, visual)."""
    batch, question, visual = rows.shape
    return SelectorInputs(
        valid=torch.ones(batch, visual, dtype=torch.bool) if valid is None else valid,
        places=torch.arange(visual).expand(batch, -1) if places is None else places,
        question_rows=rows,
        question_valid=torch.ones(batch, question, dtype=torch.bool) if asked is None else asked,
        tower_row=tower,
    )


def kept_by(selector, inputs, *counts):
    return [row.nonzero()[:, 0].tolist() for row in selector.choose(inputs, torch.tensor(counts))]


def order_of(selector, inputs):
    """Valid tokens of every sample, the best first."""
    totals = inputs.valid.sum(dim=1).tolist()
    return [row.argsort()[:total].tolist() for row, total in zip(selector.ranks(inputs), totals, strict=True)]


def draw(generator, batch=50):
    """Attention with a heavy tail, so that either threshold decides; ragged, and some questions are empty."""
    visual, question = int(generator.integers(0, 30)), int(generator.integers(0, 7))
    valid = torch.from_numpy(generator.random((batch, visual)) < generator.random((batch, 1)) * 1.5)
    asked = torch.from_numpy(generator.random((batch, question)) < generator.random((batch, 1)) * 1.3)
    rows = torch.from_numpy(generator.lognormal(-6, 1.5, (batch, question, visual))).float()
    tower = torch.from_numpy(generator.random((batch, visual))).float()
    return inputs_of(rows, tower, valid, asked)


def sample_of(inputs, row):
    """Attention of the real question tokens to the valid tokens, by token, and the tower's; float64."""
    tokens = inputs.valid[row].nonzero()[:, 0].tolist()
    asked = inputs.question_valid[row].nonzero()[:, 0].tolist()
    attention = {j: [float(inputs.question_rows[row, t, j]) for t in asked] for j in tokens}
    return attention, {j: float(inputs.tower_row[row, j]) for j in tokens}


def key_tokens(tower, share):
    """The top of the tower's row; the last valid place stands in for the number of tokens."""
    number = math.ceil(round(share * (max(tower) + 1), 9)) if tower else 0
    return set(sorted(tower, key=lambda j: (-tower[j], j))[:number])


# --- by hand ---------------------------------------------------------------------------------------------------------

EXAMPLE = inputs_of(
    torch.tensor([[[0.10, 0.02, 0.06, 0.01, 0.00], [0.00, 0.02, 0.06, 0.02, 0.01]]]),
    torch.tensor([[0.1, 0.2, 0.3, 0.2, 0.9]]),
)
"""Sums .10 .04 .12 .03 .01 of .30 in all, maxima .10 .02 .06 .02 .01; with a share of 0.2 token 4 is key."""


def test_example_by_hand():
    assert order_of(MustDrop(1, 1, 0), EXAMPLE) == [[2, 0, 1, 3, 4]], "the share of the sum decides"
    assert order_of(MustDrop(1, 0.1, 0), EXAMPLE) == [[0, 2, 1, 3, 4]], "the maximum decides, then a tie by index"
    assert order_of(MustDrop(1, 1, 0.2), EXAMPLE) == [[4, 2, 0, 1, 3]]
    assert order_of(MustDrop(1, 1, 0.4), EXAMPLE) == [[2, 4, 0, 1, 3]], "key tokens among themselves by score"
    assert kept_by(MustDrop(1, 1, 0.4), EXAMPLE, 1) == [[2]]
    torch.testing.assert_close(
        MustDrop(1, 0.3).score(EXAMPLE), torch.tensor([[1 / 3, 0.04 / 0.3, 0.4, 0.1, 0.01 / 0.3]])
    )


@pytest.mark.parametrize(("tokens", "share", "number"), [(576, 0.08, 47), (25, 0.08, 2), (26, 0.08, 3), (100, 0.07, 7)])
def test_number_of_key_tokens(tokens, share, number):
    """0.07 * 100 is a little more than 7 in float64."""
    inputs = inputs_of(torch.rand(1, 2, tokens), torch.rand(1, tokens))
    assert MustDrop(key_share=share).key(inputs).sum() == number


# --- slow twins ------------------------------------------------------------------------------------------------------

SETTINGS = [(0.001, 0.001, 0.08), (0.0012, 0.001, 0.08), (0.011, 0.01, 0.2), (0.5, 0.01, 0.0), (0.3, 0.02, 1.0)]


def twin(attention, tower, g, i, share):
    """The order of one sample, written from the definition."""
    total = sum(sum(row) for row in attention.values())
    score = {j: max(sum(row) / (g * total), max(row) / i) if row else 0.0 for j, row in attention.items()}
    key = key_tokens(tower, share)
    return sorted(attention, key=lambda j: (j not in key, -score[j], j))


def test_agrees_with_a_slow_twin():
    generator = np.random.default_rng(0)
    for case in range(20):
        inputs, settings = draw(generator), SETTINGS[case % len(SETTINGS)]
        counts = torch.from_numpy(generator.integers(0, inputs.valid.sum(dim=1).numpy() + 1))
        orders, kept = order_of(MustDrop(*settings), inputs), kept_by(MustDrop(*settings), inputs, *counts.tolist())
        for row, count in enumerate(counts.tolist()):
            expected = twin(*sample_of(inputs, row), *settings)
            assert orders[row] == expected
            assert kept[row] == sorted(expected[:count])


def left_by_thresholds(attention, key, g, i):
    """What the method keeps at thresholds g and i."""
    total, left = sum(sum(row) for row in attention.values()), set()
    for j, row in attention.items():
        dropped = sum(row) < g * total and max(row) < i and j not in key
        if not dropped:
            left.add(j)
    return left


def test_every_kept_set_is_the_methods_at_some_scale_of_its_thresholds():
    """The scale is found by bisection on how many the method leaves."""
    generator = np.random.default_rng(1)
    seen, by_sum, by_maximum = 0, 0, 0
    for g, i, share in SETTINGS[:4] * 3:
        inputs = draw(generator, batch=12)
        orders = order_of(MustDrop(g, i, share), inputs)
        for row, order in enumerate(orders):
            attention, tower = sample_of(inputs, row)
            if not any(attention.values()):
                continue
            key = key_tokens(tower, share)
            total = sum(sum(values) for values in attention.values())
            for count in range(len(key), len(order) + 1):
                low, high = 1e-12, 1e12
                for _ in range(120):
                    scale = math.sqrt(low * high)
                    left = left_by_thresholds(attention, key, scale * g, scale * i)
                    if len(left) == count:
                        break
                    low, high = (scale, high) if len(left) > count else (low, scale)
                assert set(order[:count]) == left
                seen += 1
                by_sum += any(sum(attention[j]) >= scale * g * total and max(attention[j]) < scale * i for j in left)
                by_maximum += any(
                    sum(attention[j]) < scale * g * total and max(attention[j]) >= scale * i for j in left
                )
    assert seen > 500
    assert by_sum > 100, "there are tokens that the first threshold alone holds"
    assert by_maximum > 100, "and the second"


# --- key tokens ------------------------------------------------------------------------------------------------------


def only(inputs, kept):
    """The inputs of a later cut: the kept tokens of the one sample alone, without a trace of the others."""
    index = kept[0].nonzero()[:, 0]
    return SelectorInputs(
        valid=torch.ones(1, len(index), dtype=torch.bool),
        places=inputs.places[:, index],
        question_rows=inputs.question_rows[:, :, index],
        question_valid=inputs.question_valid,
        tower_row=inputs.tower_row[:, index],
    )


@pytest.mark.parametrize("last", [True, False])
def test_key_tokens_of_a_later_cut(last):
    generator = torch.Generator().manual_seed(2)
    fewer = 0
    for _ in range(50):
        inputs = inputs_of(torch.rand(1, 4, 100, generator=generator), torch.rand(1, 100, generator=generator))
        if last:
            inputs.tower_row[0, 99] = 1.0
        selector = MustDrop(key_share=0.2)
        first = selector.key(inputs)
        assert first.sum() == 20
        later = only(inputs, selector.choose(inputs, torch.tensor([30])))
        key = set(later.places[selector.key(later)].tolist())
        missing = set(first[0].nonzero()[:, 0].tolist()) - key
        assert key <= set(first[0].nonzero()[:, 0].tolist())
        assert len(missing) <= math.ceil(0.2 * (99 - int(later.places.max())))
        assert max([0.0, *inputs.tower_row[0, sorted(missing)].tolist()]) < inputs.tower_row[0, sorted(key)].min()
        if last:
            assert not missing
        fewer += bool(missing)
    assert last or 0 < fewer < 50


def test_key_tokens_are_dropped_last():
    generator = torch.Generator().manual_seed(3)
    inputs = inputs_of(torch.rand(4, 3, 40, generator=generator), torch.rand(4, 40, generator=generator))
    best = inputs.tower_row.topk(10).indices
    for count in range(41):
        kept = MustDrop(key_share=0.25).choose(inputs, torch.full((4,), count))
        assert kept.gather(1, best).sum(dim=1).tolist() == [min(count, 10)] * 4


def test_only_the_ratio_of_thresholds_counts():
    inputs = draw(np.random.default_rng(4))
    assert order_of(MustDrop(0.011, 0.01), inputs) == order_of(MustDrop(0.11, 0.1), inputs)
    assert order_of(MustDrop(0.5, 0.001, 0), inputs) != order_of(MustDrop(0.001, 0.5, 0), inputs)


# --- what plays no part ----------------------------------------------------------------------------------------------


def test_what_is_not_there_plays_no_part():
    inputs = draw(np.random.default_rng(5))
    junk = replace(
        inputs,
        places=inputs.places.masked_fill(~inputs.valid, 999),
        tower_row=inputs.tower_row.masked_fill(~inputs.valid, 9.0),
        question_rows=inputs.question_rows.masked_fill(
            ~(inputs.valid[:, None] & inputs.question_valid[:, :, None]), 9.0
        ),
    )
    assert order_of(MustDrop(), junk) == order_of(MustDrop(), inputs)
    key = MustDrop(key_share=1).key(junk)
    assert torch.equal(key, inputs.valid)


def test_padding_of_the_question_plays_no_part():
    """A longer question in the batch may change the order of summing, but no digit of the result."""
    generator = torch.Generator().manual_seed(6)
    rows = torch.rand(3, 150, 40, generator=generator)
    inputs = inputs_of(rows, torch.rand(3, 40, generator=generator))
    there = (torch.arange(500) < 150).expand(3, -1)
    wider = replace(inputs, question_rows=torch.cat([rows, torch.ones(3, 350, 40)], dim=1), question_valid=there)
    # A low threshold, so that the sums decide.
    assert torch.equal(MustDrop(1e-5, 1).score(wider), MustDrop(1e-5, 1).score(inputs))


@pytest.mark.parametrize("question", [0, 3])
def test_without_attention_the_first_tokens_stay(question):
    inputs = inputs_of(torch.rand(2, question, 30), torch.rand(2, 30), asked=torch.zeros(2, question, dtype=torch.bool))
    assert not MustDrop().score(inputs).any()
    key = MustDrop(key_share=0.1).key(inputs)
    expected = [sorted(range(30), key=lambda j, own=own: (not own[j], j)) for own in key.tolist()]
    assert order_of(MustDrop(key_share=0.1), inputs) == expected


def test_equal_tokens_go_by_index():
    inputs = inputs_of(torch.full((2, 7, 600), 0.1), torch.full((2, 600), 0.3))
    assert order_of(MustDrop(), inputs) == [list(range(600))] * 2


@pytest.mark.parametrize("name", ["question_rows", "tower_row"])
def test_nan_is_refused_where_it_counts(name):
    broken = getattr(EXAMPLE, name).clone()
    broken[..., 3] = torch.nan
    inputs = replace(EXAMPLE, **{name: broken})
    with pytest.raises(VispcoError, match="a selector met NaN"):
        MustDrop().ranks(inputs)
    valid = torch.tensor([[True, True, True, False, True]])
    assert order_of(MustDrop(1, 1, 0), replace(inputs, valid=valid)) == [[2, 0, 1, 4]]


# --- cost and parameters ---------------------------------------------------------------------------------------------


def test_flops_are_those_of_the_questions_rows():
    shape = DecoderShape(layers=1, hidden=8, heads=2, kv_heads=1, head_dim=4, mlp=1, vocabulary=1)
    cut = Cut(shape, tokens=30, visual=20, kept=5, question=6)
    assert MustDrop().flops(cut) == 6 * 2 * 30 * 8


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("global_threshold", 0, "1e-05..1"),
        ("individual_threshold", 2, "1e-05..1"),
        ("individual_threshold", "low", "1e-05..1"),
        ("key_share", -0.1, "0..1"),
        ("key_share", True, "0..1"),
    ],
)
def test_refused_parameters(name, value, legal):
    with pytest.raises(ConfigError, match=rf"^selector parameter {name} = .* is not a number in {legal}; choose one$"):
        MustDrop(**{name: value})
