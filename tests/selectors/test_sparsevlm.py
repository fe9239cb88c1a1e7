"""SparseVLM: raters and scores against the worked examples and a slow oracle."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.sparsevlm import SparseVLM, rank_counts


def signals(seed, batch=50, tokens=9, question=5, width=4):
    """A ragged batch, whose tokens that are gone and question tokens that are padding hold nonsense."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, tokens, generator=generator) < torch.rand(batch, 1, generator=generator) * 1.5
    told = torch.rand(batch, question, generator=generator) < torch.rand(batch, 1, generator=generator) * 2
    return SelectorInputs(
        valid=valid,
        question_valid=told,
        question_rows=torch.rand(batch, question, tokens, generator=generator).masked_fill(
            ~(valid[:, None] & told[:, :, None]), 1e30
        ),
        embeddings=torch.randn(batch, tokens, width, generator=generator).masked_fill(~valid[:, :, None], 1e30),
        question_embeddings=torch.randn(batch, question, width, generator=generator).masked_fill(
            ~told[:, :, None], 1e30
        ),
    )


def from_logits(logits, rows, told=None):
    """Inputs whose embeddings have given products: the question's are unit vectors."""
    logits, rows = torch.tensor(logits)[None], torch.tensor(rows)[None]
    valid = torch.ones(1, logits.shape[1], dtype=torch.bool)
    told = torch.ones(1, logits.shape[2], dtype=torch.bool) if told is None else torch.tensor([told])
    question = torch.eye(logits.shape[2])[None]
    return SelectorInputs(
        valid=valid, question_valid=told, question_rows=rows, embeddings=logits, question_embeddings=question
    )


def indices(mask, row=0):
    return set(mask[row].nonzero()[:, 0].tolist())


def kept(inputs, count):
    return SparseVLM().choose(inputs, torch.full((len(inputs.valid),), count))


LOGITS = [[0.0, 0.0, log(4)], [0.0, 0.0, 0.0]]
ROWS = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.3]]


def test_raters_are_above_the_mean():
    """Means of softmax [1/6, 1/6, 4/6] and [1/3, 1/3, 1/3]: .25 .25 .5."""
    inputs = from_logits(LOGITS, ROWS)
    assert indices(SparseVLM().raters(inputs)) == {2}
    assert SparseVLM().score(inputs)[0].tolist() == pytest.approx([0.2, 0.3])
    assert indices(kept(inputs, 1)) == {1}


def test_products_are_not_scaled():
    """Softmax [.51 .27 .22] twice and [0 .67 .33] once: .34 .40 .26. Divided by the root of 3: .29 .40 .31."""
    inputs = from_logits([[0.8, 0.16, 0.0], [0.8, 0.16, 0.0], [-9.0, 0.7, 0.0]], torch.rand(3, 3).tolist())
    assert indices(SparseVLM().raters(inputs)) == {0, 1}
    shorter = replace(inputs, embeddings=inputs.embeddings / 3**0.5)
    assert indices(SparseVLM().raters(shorter)) == {1}


def test_score_is_the_mean_of_the_raters():
    """Two raters whose mean is the example's row, and a third token that has no say."""
    rows = [[0.40, 0.02, 0.10, 0.30, 0.25, 0.06], [0.20, 0.08, 0.14, 0.20, 0.15, 0.10], [0.0, 9.0, 9.0, 0.0, 9.0, 9.0]]
    inputs = from_logits([[2.0, 2.0, 0.0]] * 6, rows)
    assert SparseVLM().score(inputs)[0].tolist() == pytest.approx([0.30, 0.05, 0.12, 0.25, 0.20, 0.08])
    assert indices(kept(inputs, 2)) == {0, 3}
    assert indices(kept(inputs, 4)) == {0, 3, 4, 2}


def test_raters_of_padding_play_no_part():
    """Without the third token the other two are alike, so both rate."""
    inputs = from_logits(LOGITS, ROWS, told=[True, True, False])
    assert indices(SparseVLM().raters(inputs)) == {0, 1}
    assert SparseVLM().score(inputs)[0].tolist() == pytest.approx([0.9, 0.1])


def test_raters_are_chosen_by_the_tokens_that_are_there():
    inputs = from_logits([[0.0, 0.0, log(4)], [log(4), 0.0, 0.0]], ROWS)
    assert indices(SparseVLM().raters(inputs)) == {0, 2}
    assert indices(SparseVLM().raters(replace(inputs, valid=torch.tensor([[True, False]])))) == {2}
    assert indices(SparseVLM().raters(replace(inputs, valid=torch.tensor([[False, True]])))) == {0}


@pytest.mark.parametrize("seed", range(20))
def test_choice_is_the_oracle_s(seed):
    inputs = signals(seed)
    share = torch.rand(len(inputs.valid), generator=torch.Generator().manual_seed(seed))
    counts = (share * (inputs.valid.sum(dim=1) + 1)).long()
    chosen, raters = SparseVLM().choose(inputs, counts), SparseVLM().raters(inputs)
    for row in range(len(inputs.valid)):
        there = [j for j in range(inputs.valid.shape[1]) if inputs.valid[row, j]]
        told = [i for i in range(inputs.question_valid.shape[1]) if inputs.question_valid[row, i]]
        visual, question = inputs.embeddings[row].double().numpy(), inputs.question_embeddings[row].double().numpy()
        relevance = dict.fromkeys(told, 0.0)
        for j in there:
            powers = {i: np.exp(visual[j] @ question[i]) for i in told}
            for i in told:
                relevance[i] += powers[i] / sum(powers.values()) / len(there)
        rating = [i for i in told if relevance[i] > 1 / len(told) + 1e-5] or told
        rows = inputs.question_rows[row].double().numpy()
        best = sorted(there, key=lambda j: (-sum(rows[i, j] for i in rating), j))
        assert indices(raters, row) == set(rating)
        assert indices(chosen, row) == set(best[: int(counts[row])])


def test_order_of_tokens_and_of_words_changes_nothing():
    inputs = signals(1)
    turn, words = torch.tensor([4, 2, 0, 8, 5, 1, 7, 3, 6]), torch.tensor([3, 0, 4, 2, 1])
    turned = SelectorInputs(
        valid=inputs.valid[:, turn],
        question_valid=inputs.question_valid[:, words],
        question_rows=inputs.question_rows[:, words][:, :, turn],
        embeddings=inputs.embeddings[:, turn],
        question_embeddings=inputs.question_embeddings[:, words],
    )
    some = inputs.question_valid.any(dim=1)  # without a question all scores are equal, and the order does count
    counts = inputs.valid.sum(dim=1) // 2
    first, second = (SparseVLM().choose(each, counts) for each in (inputs, turned))
    assert torch.equal(first[:, turn][some], second[some])


@pytest.mark.parametrize("question", [1, 2, 7, 12, 17, 33])
@pytest.mark.parametrize("tokens", [3, 9, 37])
def test_words_alike_all_rate_and_ties_go_to_the_lower_index(question, tokens):
    """Rounding must choose neither among words that are alike nor among tokens that are."""
    generator = torch.Generator().manual_seed(question)
    inputs = SelectorInputs(
        valid=torch.ones(2, tokens, dtype=torch.bool),
        question_valid=torch.ones(2, question, dtype=torch.bool),
        question_rows=torch.rand(1, question, 1, generator=generator).expand(2, -1, tokens),
        embeddings=torch.randn(2, tokens, 16, generator=generator),
        question_embeddings=torch.randn(2, 1, 16, generator=generator).expand(-1, question, -1),
    )
    assert SparseVLM().raters(inputs).all()
    assert len(SparseVLM().score(inputs).unique()) == 1
    assert indices(kept(inputs, 2)) == {0, 1}
    zeros = replace(inputs, embeddings=torch.zeros(2, tokens, 16), question_embeddings=torch.zeros(2, question, 16))
    assert SparseVLM().raters(zeros).all()


@pytest.mark.parametrize("question", [0, 3])
def test_an_empty_question_keeps_the_first(question):
    inputs = SelectorInputs(
        valid=torch.tensor([[False, True, True, True]]),
        question_valid=torch.zeros(1, question, dtype=torch.bool),
        question_rows=torch.rand(1, question, 4),
        embeddings=torch.randn(1, 4, 2),
        question_embeddings=torch.randn(1, question, 2),
    )
    assert SparseVLM().score(inputs).tolist() == [[0.0] * 4]
    assert indices(kept(inputs, 2)) == {1, 2}


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_few_tokens(tokens):
    inputs = signals(0, batch=3, tokens=tokens)
    inputs = replace(inputs, valid=torch.ones(3, tokens, dtype=torch.bool))
    for count in range(tokens + 1):
        assert kept(inputs, count).sum(dim=1).tolist() == [count] * 3


@pytest.mark.parametrize(
    ("name", "place"),
    [("question_rows", (0, 0, 1)), ("embeddings", (0, 1, 0)), ("question_embeddings", (0, 0, 1))],
)
def test_nan_is_refused_where_it_counts(name, place):
    """Also in the row of a word that does not rate, and not in tokens that are gone or padding."""
    inputs = from_logits(LOGITS, ROWS)
    broken = getattr(inputs, name).clone()
    broken[place] = torch.nan
    inputs = replace(inputs, **{name: broken})
    with pytest.raises(VispcoError, match="NaN"):
        kept(inputs, 1)
    if name == "embeddings":
        inputs = replace(inputs, valid=torch.tensor([[True, False]]))
    else:
        inputs = replace(inputs, question_valid=torch.tensor([[False, True, True]]))
    assert kept(inputs, 1).sum() == 1


def test_reads_rows_and_embeddings_and_has_no_parameters():
    assert SparseVLM.needs == {"question_rows", "embeddings"}
    assert SparseVLM.knobs == {}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_counts_follow_the_rank_of_the_raters_rows(share):
    """Against numpy, sample by sample; rows of rank below their number among them."""
    inputs = signals(7, batch=200)
    inputs.question_rows[::3, 1] = inputs.question_rows[::3, 0]
    raters = SparseVLM().raters(inputs)
    ranks = set()
    for row, count in enumerate(rank_counts(inputs, share).tolist()):
        matrix = inputs.question_rows[row][raters[row]][:, inputs.valid[row]].double().numpy()
        rank = int(np.linalg.matrix_rank(matrix)) if matrix.size else 0
        total = int(inputs.valid[row].sum())
        assert count == total - int(share * (total - rank) + 1e-9)
        ranks.add((rank, int(raters[row].sum())))
    assert any(rank < number for rank, number in ranks)
    assert len({rank for rank, _ in ranks}) > 3


def test_ranks_of_nothing_and_bad_shares():
    nothing = signals(1, batch=3, tokens=0)
    assert rank_counts(nothing, 0.5).tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match=r"share = 1\.5 is not a number in 0\.\.1"):
        rank_counts(signals(1), 1.5)
