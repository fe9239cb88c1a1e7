"""Importance and redundancy against a worked example, the formula in double precision, and their extremes."""

import numpy as np
import pytest
import torch

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import FastV, SelectorInputs
from vispco.selectors.balanced_fastv import BalancedFastV

ROW = torch.tensor([[0.08, 0.03, 0.10, 0.15, 0.05, 0.09]])
COSINES = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3, 0.2])
HIDDEN = torch.stack([COSINES, (1 - COSINES**2).sqrt()], dim=-1)[None]
QUESTION = torch.tensor([[[0.0, 1.0], [5.0, 0.0], [0.0, -3.0]]])
"""The second token is the last one; the third is padding."""


def inputs_of(valid=None, row=ROW, hidden=HIDDEN, question=QUESTION, question_valid=None):
    return SelectorInputs(
        valid=torch.ones(row.shape, dtype=torch.bool) if valid is None else valid,
        last_row=row,
        hidden=hidden,
        question_hidden=question,
        question_valid=torch.tensor([[True, True, False]]) if question_valid is None else question_valid,
    )


def kept(alpha, count, inputs):
    return set(BalancedFastV(alpha).choose(inputs, torch.tensor([count]))[0].nonzero()[:, 0].tolist())


def scores_by_formula(row, states, there, question, asked, alpha):
    """Token after token, in double precision."""
    last = next((question[t] for t in reversed(range(len(question))) if asked[t]), np.zeros(states.shape[1]))
    tokens = [int(token) for token in np.flatnonzero(there)]
    cosines = {}
    for token in tokens:
        lengths = np.sqrt((states[token] ** 2).sum()) * np.sqrt((last**2).sum())
        cosines[token] = (states[token] * last).sum() / lengths if lengths else 0.0

    def scaled(values, token):
        low, high = min(values[other] for other in tokens), max(values[other] for other in tokens)
        return (values[token] - low) / (high - low) if high > low else 0.0

    return {token: alpha * scaled(row, token) + (1 - alpha) * (1 - scaled(cosines, token)) for token in tokens}


@pytest.mark.parametrize(
    ("alpha", "scores", "three"),
    [
        (0, [0, 1, 0.5, 0.25, 0.75, 0.875], {1, 4, 5}),
        (0.5, [0.2083, 0.5, 0.5417, 0.625, 0.4583, 0.6875], {2, 3, 5}),
        (1, [0.4167, 0, 0.5833, 1, 0.1667, 0.5], {2, 3, 5}),
    ],
)
def test_worked_example(alpha, scores, three):
    assert BalancedFastV(alpha).score(inputs_of())[0].tolist() == pytest.approx(scores, abs=1e-4)
    assert kept(alpha, 3, inputs_of()) == three


def test_agrees_with_the_formula():
    random = np.random.default_rng(0)
    compared = 0
    for alpha in (0.0, 0.1, 0.25, 0.5, 0.5, 0.5, 0.75, 0.9, 1.0, 0.3, 0.7):
        rows = random.random((100, 12), dtype=np.float32)
        states = random.standard_normal((100, 12, 5), dtype=np.float32)
        question = random.standard_normal((100, 4, 5), dtype=np.float32)
        valid, asked = random.random((100, 12)) < 0.7, random.random((100, 4)) < 0.6
        rows[~valid], states[~valid], question[~asked] = 1e9, -1e9, 1e9
        counts = [int(random.integers(0, there.sum() + 1)) for there in valid]
        inputs = inputs_of(*(torch.tensor(part) for part in (valid, rows, states, question, asked)))
        chosen = BalancedFastV(alpha).choose(inputs, torch.tensor(counts)).numpy()
        cases = zip(chosen, rows, states, valid, question, asked, counts, strict=True)
        for mine, row, state, there, words, spoken, count in cases:
            scores = scores_by_formula(row, state.astype(np.float64), there, words, spoken, alpha)
            order = sorted(scores, key=lambda token: (-scores[token], token))
            # Where rounding decides, the sets may differ; exact ties are tested on their own.
            if not 0 < count < len(order) or scores[order[count - 1]] - scores[order[count]] > 1e-5:
                assert np.flatnonzero(mine).tolist() == sorted(order[:count])
                compared += 1
    assert compared >= 1000


def test_the_score_is_linear_in_alpha():
    half = (BalancedFastV(0.0).score(inputs_of()) + BalancedFastV(1.0).score(inputs_of())) / 2
    torch.testing.assert_close(BalancedFastV(0.5).score(inputs_of()), half)


def test_extremes_leave_the_other_part_out():
    for count in range(7):
        fastv = FastV().choose(inputs_of(), torch.tensor([count]))[0].nonzero()[:, 0].tolist()
        assert kept(1, count, inputs_of(hidden=torch.ones_like(HIDDEN))) == set(fastv)
        assert kept(0, count, inputs_of(row=ROW.flip(1))) == kept(0, count, inputs_of())


def test_units_do_not_matter():
    """Neither those of the attention nor the lengths of the states."""
    lengths = torch.tensor([1.0, 7.0, 0.01, 300.0, 2.0, 0.5])[None, :, None]
    other = inputs_of(row=0.3 * ROW + 0.2, hidden=HIDDEN * lengths, question=QUESTION * 40)
    torch.testing.assert_close(BalancedFastV(0.4).score(other), BalancedFastV(0.4).score(inputs_of()))


def test_tokens_in_another_order():
    shuffle = torch.tensor([4, 2, 0, 5, 1, 3])
    moved = BalancedFastV().ranks(inputs_of(row=ROW[:, shuffle], hidden=HIDDEN[:, shuffle]))
    assert torch.equal(moved, BalancedFastV().ranks(inputs_of())[:, shuffle])


def test_min_max_is_over_tokens_that_are_there():
    """Without the first and the fourth token: I = [-, 0, 1, -, 2/7, 6/7], C = [-, 0, 1, -, 1/2, 1/4]."""
    valid = torch.tensor([[False, True, True, False, True, True]])
    scores = BalancedFastV(0.5).score(inputs_of(valid))[valid]
    assert scores.tolist() == pytest.approx([0.5, 0.5, 11 / 28, 45 / 56])


@pytest.mark.parametrize("question", [QUESTION, torch.zeros(1, 0, 2)], ids=["padding alone", "no tokens"])
def test_without_a_question_importance_decides(question):
    silent = inputs_of(question=question, question_valid=torch.zeros(question.shape[:2], dtype=torch.bool))
    expected = BalancedFastV(1).score(inputs_of()) / 2 + 0.5
    torch.testing.assert_close(BalancedFastV(0.5).score(silent), expected)


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_equal_tokens_tie(alpha, value):
    """Whatever their place in memory, equal tokens get one score; ties go to the lower index."""
    hidden = torch.full((1, 577, 67), value) * torch.linspace(-1, 2, 67)
    question = torch.randn(1, 3, 67, generator=torch.Generator().manual_seed(0))
    same = inputs_of(row=torch.full((1, 577), 0.1), hidden=hidden, question=question)
    assert len(BalancedFastV(alpha).score(same).unique()) == 1
    assert kept(alpha, 5, same) == {0, 1, 2, 3, 4}


def test_no_tokens():
    none = inputs_of(row=torch.zeros(1, 0), hidden=torch.zeros(1, 0, 2))
    assert BalancedFastV().ranks(none).shape == (1, 0)


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
@pytest.mark.parametrize("part", ["row", "hidden", "question"])
def test_nan_is_refused_even_where_its_weight_is_zero(part, alpha):
    broken = {"row": ROW, "hidden": HIDDEN, "question": QUESTION}[part].clone()
    broken[0, 1] = torch.nan
    with pytest.raises(VispcoError, match="NaN"):
        kept(alpha, 3, inputs_of(**{part: broken}))
    valid = torch.arange(6)[None] != 1
    question_valid = torch.tensor([[True, False, False]])
    assert len(kept(alpha, 3, inputs_of(valid, **{part: broken}, question_valid=question_valid))) == 3


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), "0.5", None, True])
def test_parameters_that_are_refused(alpha):
    with pytest.raises(ConfigError, match=r"^selector parameter alpha = .* is not a number in 0\.\.1") as caught:
        BalancedFastV(alpha)
    assert repr(alpha) in str(caught.value)
