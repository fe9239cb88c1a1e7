"""SparseVLM+: division by the decay, choice of heads, and a slow oracle."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.sparsevlm import SparseVLM
from vispco.selectors.sparsevlm_plus import LEAST, SparseVLMPlus


def from_heads(heads, decay=None, logits=None):
    """One sample of given attention (heads, question, visual); all question tokens rate if there are no logits."""
    rows = torch.tensor(heads)[None]
    question, tokens = rows.shape[2:]
    return SelectorInputs(
        valid=torch.ones(1, tokens, dtype=torch.bool),
        question_valid=torch.ones(1, question, dtype=torch.bool),
        question_heads=rows,
        question_decay=torch.ones(1, question, tokens) if decay is None else torch.tensor(decay)[None],
        embeddings=torch.zeros(1, tokens, question) if logits is None else torch.tensor(logits)[None],
        question_embeddings=torch.eye(question)[None],
    )


def score(inputs, heads=14):
    return SparseVLMPlus(heads).score(inputs)[0].tolist()


def kept(inputs, count, heads=14):
    return SparseVLMPlus(heads).choose(inputs, torch.tensor([count]))[0].nonzero()[:, 0].tolist()


# --- worked examples -------------------------------------------------------------------------------------------------

SCORES = [0.30, 0.05, 0.12, 0.25, 0.20, 0.08]


def test_without_decay_and_with_all_heads_it_is_sparsevlm():
    """The worked example of the score: two heads whose mean it is."""
    heads = [[[2 * s for s in SCORES]], [[0.0] * 6]]
    inputs = from_heads(heads)
    assert score(inputs) == pytest.approx(SCORES)
    assert kept(inputs, 2) == [0, 3]
    plain = replace(
        inputs, question_heads=None, question_decay=None, question_rows=torch.tensor(heads).mean(dim=0)[None]
    )
    assert torch.equal(SparseVLMPlus().ranks(inputs), SparseVLM().ranks(plain))


def test_division_undoes_the_decay():
    """At equal product, the far tokens 0 and 1 would have a half and a quarter of what the near token 2 has."""
    inputs = from_heads([[[0.2, 0.15, 0.3]]], [[0.5, 0.25, 1.0]])
    assert score(inputs) == pytest.approx([0.4, 0.6, 0.3])
    assert kept(inputs, 1) == [1]


def test_heads_are_chosen_after_division():
    """Head 0 has a mass of .6, head 1 of .5; divided by .25 and 1 they have 1.2 and 1.7."""
    inputs = from_heads([[[0.2, 0.4]], [[0.4, 0.1]]], [[0.25, 1.0]])
    assert score(inputs, 1) == pytest.approx([1.6, 0.1])
    assert kept(inputs, 1, heads=1) == [0]
    even = replace(inputs, question_decay=torch.ones(1, 1, 2))
    assert score(even, 1) == pytest.approx([0.2, 0.4])


def test_heads_are_chosen_by_raters_alone():
    """Question token 2 rates alone; by all three, head 0 would have the larger mass."""
    heads = [[[0.9, 0.1], [0.9, 0.1], [0.1, 0.3]], [[0.1, 0.1], [0.0, 0.1], [0.4, 0.3]]]
    inputs = from_heads(heads, logits=[[0.0, 0.0, log(4)], [0.0, 0.0, 0.0]])
    assert score(inputs, 1) == pytest.approx([0.4, 0.3])


def test_heads_that_tie_go_to_the_lower_one():
    """Heads 1 to 8 hold the same numbers in another order, whose sums in float32 differ."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(999, generator=generator)
    turned = [numbers[torch.randperm(999, generator=generator)].tolist() for _ in range(8)]
    inputs = from_heads([[[0.0] * 999], *([each] for each in turned)])
    assert len(torch.tensor(turned).sum(dim=1).unique()) > 1
    assert score(inputs, 1) == pytest.approx(turned[0])
    assert score(inputs, 2) == pytest.approx(torch.tensor(turned[:2]).mean(dim=0).tolist())


def test_more_heads_than_there_are_are_all():
    inputs = from_heads([[[0.2, 0.4]], [[0.4, 0.1]]])
    assert score(inputs, 128) == score(inputs, 2) == pytest.approx([0.3, 0.25])
    assert score(inputs, 1) == pytest.approx([0.2, 0.4])


# --- divisors that are small, zero or negative -----------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.4, 0.2, 1e-30, 0.0, -1e-30, -5.0])
def test_no_divisor_is_below_the_least(decay):
    """A twentieth of the largest decay, 8, which is .4."""
    inputs = from_heads([[[0.1, 0.8, 0.1]]], [[decay, 8.0, 4.0]])
    assert LEAST == 0.05
    assert score(inputs) == pytest.approx([0.25, 0.1, 0.025])


def test_a_divisor_above_the_least_is_as_it_is():
    inputs = from_heads([[[0.1, 0.8, 0.1]]], [[0.5, 8.0, 4.0]])
    assert score(inputs) == pytest.approx([0.2, 0.1, 0.025])


def test_the_largest_decay_is_that_of_the_sample():
    """The second question token is far from all: its divisors are held at .4 as well, not at a share of its own."""
    inputs = from_heads([[[0.0, 0.8], [0.2, 0.2]]], [[4.0, 8.0], [0.1, -0.1]])
    assert score(inputs) == pytest.approx([0.5 / 2, (0.1 + 0.5) / 2])


@pytest.mark.parametrize("decay", [0.0, -3.0])
def test_without_a_positive_decay_attention_is_left_as_it_is(decay):
    inputs = from_heads([[[0.3, 0.1, 0.2]]], [[decay, decay, decay]])
    assert score(inputs) == pytest.approx([0.3, 0.1, 0.2])


def test_decays_of_what_is_not_there_play_no_part():
    """Neither is the largest, nor are they divided by."""
    inputs = from_heads([[[0.1, 0.8, 0.1], [0.5, 0.5, 0.5]]], [[0.2, 8.0, 1e9], [1e9, 1e9, 1e9]])
    inputs = replace(inputs, valid=torch.tensor([[True, True, False]]), question_valid=torch.tensor([[True, False]]))
    assert score(inputs)[:2] == pytest.approx([0.25, 0.1])


# --- slow oracle -----------------------------------------------------------------------------------------------------


def signals(generator, batch=50):
    """A ragged batch; what is gone or padding holds nonsense."""
    tokens, question, heads = (int(generator.integers(1, most)) for most in (12, 7, 6))
    valid = torch.from_numpy(generator.random((batch, tokens)) < generator.random((batch, 1)) * 1.5)
    told = torch.from_numpy(generator.random((batch, question)) < generator.random((batch, 1)) * 2)
    pairs = told[:, :, None] & valid[:, None]

    def draw(*shape):
        return torch.from_numpy(generator.standard_normal(shape)).float()

    return SelectorInputs(
        valid=valid,
        question_valid=told,
        question_heads=draw(batch, heads, question, tokens).sigmoid().masked_fill(~pairs[:, None], 1e30),
        question_decay=(draw(batch, question, tokens) + generator.choice([-2.0, 0.0, 2.0])).masked_fill(~pairs, 1e30),
        embeddings=draw(batch, tokens, 3).masked_fill(~valid[:, :, None], 1e30),
        question_embeddings=draw(batch, question, 3).masked_fill(~told[:, :, None], 1e30),
    )


def oracle(heads, decay, visual, question, number):
    """Scores of one sample without padding, by loops."""
    count, words, tokens = heads.shape
    relevance = [0.0] * words
    for j in range(tokens):
        powers = [np.exp(visual[j] @ question[i]) for i in range(words)]
        for i in range(words):
            relevance[i] += powers[i] / sum(powers) / tokens
    raters = [i for i in range(words) if relevance[i] > 1 / words + 1e-5] or list(range(words))
    largest = max([float(decay[i, j]) for i in range(words) for j in range(tokens)], default=0.0)
    divided = {}
    for h in range(count):
        for i in raters:
            for j in range(tokens):
                by = max(float(decay[i, j]), largest / 20) if largest > 0 else 1.0
                divided[h, i, j] = heads[h, i, j] / by
    mass = [sum(divided[h, i, j] for i in raters for j in range(tokens)) for h in range(count)]
    chosen = sorted(range(count), key=lambda h: (-mass[h], h))[:number]
    return [sum(divided[h, i, j] for h in chosen for i in raters) / len(chosen) / len(raters) for j in range(tokens)]


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_the_oracle(seed):
    generator = np.random.default_rng(seed)
    inputs, number = signals(generator), int(generator.integers(1, 5))
    selector = SparseVLMPlus(number)
    scores = selector.score(inputs)
    counts = torch.from_numpy(generator.integers(0, inputs.valid.sum(dim=1).numpy() + 1))
    chosen = selector.choose(inputs, counts)
    assert scores.dtype == torch.float32
    for row in range(len(counts)):
        there, told = inputs.valid[row].numpy(), inputs.question_valid[row].numpy()
        heads = inputs.question_heads[row].double().numpy()[:, told][:, :, there]
        decay = inputs.question_decay[row].double().numpy()[told][:, there]
        visual, question = inputs.embeddings[row].double().numpy(), inputs.question_embeddings[row].double().numpy()
        expected = oracle(heads, decay, visual[there], question[told], number) if told.any() else [0.0] * there.sum()
        assert scores[row].numpy()[there] == pytest.approx(expected, rel=1e-4, abs=1e-7)
        best = sorted(range(len(expected)), key=lambda j: (-expected[j], j))[: int(counts[row])]
        assert chosen[row].numpy()[there].nonzero()[0].tolist() == sorted(best)


# --- properties ------------------------------------------------------------------------------------------------------


def test_scale_of_the_decay_changes_no_rank():
    inputs = signals(np.random.default_rng(4))
    scaled = replace(inputs, question_decay=inputs.question_decay * 4)
    positive = inputs.question_decay.masked_fill(inputs.question_decay > 1e20, 0.0).amax(dim=(1, 2)) > 0
    assert positive.any()
    assert torch.equal(SparseVLMPlus(2).ranks(inputs)[positive], SparseVLMPlus(2).ranks(scaled)[positive])


@pytest.mark.parametrize("question", [1, 7, 33])
def test_equal_tokens_stay_equal(question):
    """Rounding must not choose among tokens that are alike."""
    generator = torch.Generator().manual_seed(question)
    one = torch.rand(1, 5, question, 1, generator=generator).expand(-1, -1, -1, 37)
    inputs = from_heads(one[0].tolist(), torch.rand(question, 1, generator=generator).expand(-1, 37).tolist())
    assert len(SparseVLMPlus(3).score(inputs).unique()) == 1
    assert kept(inputs, 2, heads=3) == [0, 1]


@pytest.mark.parametrize("question", [0, 3])
def test_an_empty_question_keeps_the_first(question):
    inputs = SelectorInputs(
        valid=torch.tensor([[False, True, True, True]]),
        question_valid=torch.zeros(1, question, dtype=torch.bool),
        question_heads=torch.rand(1, 2, question, 4),
        question_decay=torch.rand(1, question, 4),
        embeddings=torch.randn(1, 4, 2),
        question_embeddings=torch.randn(1, question, 2),
    )
    assert score(inputs) == [0.0] * 4
    assert kept(inputs, 2) == [1, 2]


@pytest.mark.parametrize("name", ["question_heads", "question_decay", "embeddings", "question_embeddings"])
def test_nan_is_refused_where_it_counts(name):
    """Also in the row of a word that does not rate and in a head that does not count; not in padding."""
    heads = [[[0.5, 0.5], [0.1, 0.2]], [[0.1, 0.1], [0.1, 0.1]]]
    inputs = from_heads(heads, logits=[[0.0, log(4)], [0.0, 0.0]])
    assert SparseVLMPlus().raters(inputs).tolist() == [[False, True]]
    broken = getattr(inputs, name).clone()
    broken[(0, 1, 0, 1) if name == "question_heads" else (0, 1, 0) if name == "embeddings" else (0, 0, 1)] = torch.nan
    inputs = replace(inputs, **{name: broken})
    with pytest.raises(VispcoError, match="NaN"):
        kept(inputs, 1, heads=1)
    gone = (
        {"valid": torch.tensor([[True, False]])}
        if name == "embeddings"
        else {"question_valid": torch.tensor([[False, True]])}
    )
    assert len(kept(replace(inputs, **gone), 1, heads=1)) == 1


def test_flops_are_those_of_the_raters():
    shape = DecoderShape(layers=1, hidden=8, heads=2, kv_heads=2, head_dim=4, mlp=1, vocabulary=1)
    assert SparseVLMPlus().own_flops(Cut(shape, tokens=600, visual=576, kept=300, question=7)) == 2 * 576 * 7 * 8


@pytest.mark.parametrize("value", [0, -1, 129, 2.5, True, "4", None])
def test_refused_parameters(value):
    with pytest.raises(ConfigError, match=r"selector parameter heads = .* is not a whole number in 1\.\.128"):
        SparseVLMPlus(value)
