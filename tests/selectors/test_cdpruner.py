"""CDPruner against a worked example and a slow twin that computes determinants."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.cdpruner import CDPruner, greedy_dpp, scale_relevance
from vispco.testing.signals import WIDTH, make_signals

ANGLES = np.deg2rad([0, 10, 45, 90, 95, 170])
VISUAL = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)
RELEVANCE = np.array([0.9, 0.2, 0.5, 0.6, 1.0, 0.3])
ALL = torch.ones(1, 6, dtype=torch.bool)


def floats(array):
    return torch.from_numpy(np.asarray(array)).float()[None]


# --- slow twin -------------------------------------------------------------------------------------------------------


def gains(features, relevance, picked):
    """det L[S + j] / det L[S] of every token j, which is 0 for those in S."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, lengths[:, 0] > 0)  # without rounding, so that equal gains tie
    kernel = relevance[:, None] * cosine * relevance[None]

    def det(members):
        return np.linalg.det(kernel[np.ix_(members, members)]) if members else 1.0

    return np.array([0.0 if j in picked else det([*picked, j]) / det(picked) for j in range(len(features))])


def twin(features, relevance):
    """The complete order; a gain below a hundred thousandth of q^2 is none, and relevance decides the rest."""
    picked = []
    for _ in range(len(features)):
        gain = gains(features, relevance, picked) if len(picked) < features.shape[1] else np.zeros(len(features))
        left = [j for j in range(len(features)) if j not in picked]
        gaining = [j for j in left if gain[j] > 1e-5 * relevance[j] ** 2]
        picked.append(max(gaining, key=lambda j: gain[j]) if gaining else max(left, key=lambda j: relevance[j]))
    return picked


def relevance_of(embeddings, question, negated):
    """From the definition, in loops."""
    if len(question) == 0:
        return np.ones(len(embeddings))
    mean = question.mean(axis=0)
    cosine = np.array([row @ mean / np.linalg.norm(row) / np.linalg.norm(mean) for row in embeddings])
    cosine = -cosine if negated else cosine
    if len(cosine) < 2:
        return np.ones(len(embeddings))
    return (cosine - cosine.min() + 1e-6) / (cosine.max() - cosine.min())


# --- worked example --------------------------------------------------------------------------------------------------


def test_gains_of_the_example():
    """The slow twin's, so that what the code is held to is right itself."""
    assert gains(VISUAL, RELEVANCE, []) == pytest.approx([0.81, 0.04, 0.25, 0.36, 1, 0.09])
    assert gains(VISUAL, RELEVANCE, [4]) == pytest.approx([0.8038, 0.0397, 0.1467, 0.0027, 0, 0.0840], abs=1e-4)
    assert gains(VISUAL, RELEVANCE, [4, 0]) == pytest.approx(np.zeros(6), abs=1e-9)


def test_example():
    """Two picks span the plane; the others follow by relevance."""
    picks = greedy_dpp(floats(VISUAL), floats(RELEVANCE), ALL, 6)
    assert picks.tolist() == [[4, 0, 3, 2, 5, 1]]
    assert twin(VISUAL, RELEVANCE) == [4, 0, 3, 2, 5, 1]


def test_scaled_relevance_of_the_example():
    """The paper's sign: the token least like the question is the most relevant."""
    cosines = torch.tensor([[0.20, 0.24, 0.22, 0.18, 0.21, 0.25]])
    expected = torch.tensor([[0.7143, 0.1429, 0.4286, 1.0, 0.5714, 0.0]])
    torch.testing.assert_close(scale_relevance(-cosines, ALL), expected, atol=1e-4, rtol=0)


def test_the_least_relevant_token_keeps_a_little():
    assert scale_relevance(torch.tensor([[0.0, 0.5]]), ALL[:, :2]).tolist() == [pytest.approx([2e-6, 1 + 2e-6])]


# --- slow twin against the code --------------------------------------------------------------------------------------


def draw(generator, batch=50):
    """A ragged batch; fewer dimensions than tokens in about half of them, and some empty questions."""
    visual, question = int(generator.integers(1, 11)), int(generator.integers(0, 6))
    width = int(generator.integers(2, 13))
    valid = torch.from_numpy(generator.random((batch, visual)) < generator.random((batch, 1)) * 1.5)
    asked = torch.from_numpy(generator.random((batch, question)) < generator.random((batch, 1)) * 1.5)

    def rows(tokens):
        return torch.from_numpy(generator.standard_normal((batch, tokens, width))).float()

    return SelectorInputs(
        valid=valid, embeddings=rows(visual), question_embeddings=rows(question), question_valid=asked
    )


def test_agrees_with_a_slow_twin():
    """Whole orders, and so the kept sets of every count."""
    generator = np.random.default_rng(0)
    for turn in range(20):
        inputs, selector = draw(generator), CDPruner(negated=turn % 2 == 1)
        ranks = selector.ranks(inputs)
        for sample in range(len(inputs.valid)):
            there, asked = inputs.valid[sample], inputs.question_valid[sample]
            embeddings = inputs.embeddings[sample][there].double().numpy()
            question = inputs.question_embeddings[sample][asked].double().numpy()
            order = twin(embeddings, relevance_of(embeddings, question, selector.negated))
            assert ranks[sample][there].argsort().tolist() == order


def test_a_prefix_does_not_depend_on_how_many_are_picked():
    inputs = make_signals(torch.ones(3, 12, dtype=torch.bool), CDPruner.needs)
    whole = CDPruner().order(inputs, 12)
    for steps in range(13):
        assert torch.equal(CDPruner().order(inputs, steps), whole[:, :steps])


# --- relevance -------------------------------------------------------------------------------------------------------


def inputs_of(embeddings, question, asked=None):
    asked = torch.ones(1, question.shape[1], dtype=torch.bool) if asked is None else asked
    valid = torch.ones(1, embeddings.shape[1], dtype=torch.bool)
    return SelectorInputs(valid=valid, embeddings=embeddings, question_embeddings=question, question_valid=asked)


def test_the_sign_decides_which_token_comes_first():
    """The question points at token 1."""
    inputs = inputs_of(floats(VISUAL), floats(VISUAL[1:2]))
    assert CDPruner().order(inputs, 1).tolist() == [[1]]
    assert CDPruner(negated=True).order(inputs, 1).tolist() == [[5]]


def test_the_question_is_its_mean_without_padding():
    """The mean of 0 and 90 degrees is 45; the mean with the padded -90 would be 0."""
    question = floats([[1, 0], [0, 1], [0, -1]])
    inputs = inputs_of(floats(VISUAL), question, torch.tensor([[True, True, False]]))
    assert CDPruner().order(inputs, 1).tolist() == [[2]]


@pytest.mark.parametrize("negated", [False, True])
def test_an_empty_question_leaves_diversity_alone(negated):
    inputs = inputs_of(floats(VISUAL), torch.zeros(1, 0, 2))
    assert CDPruner(negated=negated).order(inputs, 6).tolist() == [[0, 3, 1, 2, 4, 5]]


@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-6])
def test_constant_relevance_is_one(spread):
    """A spread of the order of float32's rounding is none."""
    relevance = torch.tensor([[0.0, spread, 0.0]])
    assert scale_relevance(relevance, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[1.0, 1.0, 1.0]]


def test_invalid_tokens_do_not_stretch_the_range():
    relevance = torch.tensor([[9.0, 0.1, 0.3, -9.0]])
    scaled = scale_relevance(relevance, torch.tensor([[False, True, True, False]]))
    assert scaled[0, 1:3].tolist() == [pytest.approx(5e-6, rel=1e-3), pytest.approx(1.0, abs=1e-4)]


# --- invariances -----------------------------------------------------------------------------------------------------


def test_lengths_play_no_part():
    inputs = make_signals(torch.ones(3, 12, dtype=torch.bool), CDPruner.needs)
    lengths = torch.arange(1.0, 13)[None, :, None]
    scaled = SelectorInputs(**{**vars(inputs), "embeddings": inputs.embeddings * lengths})
    assert torch.equal(CDPruner().ranks(inputs), CDPruner().ranks(scaled))


def test_order_of_tokens_plays_no_part():
    inputs = make_signals(torch.ones(3, 12, dtype=torch.bool), CDPruner.needs)
    shuffle = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = SelectorInputs(**{**vars(inputs), "embeddings": inputs.embeddings[:, shuffle]})
    assert torch.equal(CDPruner().ranks(inputs)[:, shuffle], CDPruner().ranks(moved))


# --- degenerate ------------------------------------------------------------------------------------------------------


def test_a_duplicate_has_no_gain():
    """Token 1 repeats token 0, and comes last although it is the second most relevant."""
    features = torch.eye(4)[[0, 0, 1, 2]][None]
    picks = greedy_dpp(features, torch.tensor([[1.0, 0.9, 0.5, 0.1]]), ALL[:, :4], 4)
    assert picks.tolist() == [[0, 2, 3, 1]]


def test_rank_is_exhausted_in_float32():
    """Of 200 tokens in 12 dimensions, 12 are picked by gain; rounding does not pass for gain."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 200, 12, generator=generator) @ torch.randn(12, 256, generator=generator)
    relevance = torch.rand(4, 200, generator=generator)
    picks = greedy_dpp(features, relevance, torch.ones(4, 200, dtype=torch.bool), 200)
    in_order = relevance.gather(1, picks)
    assert (in_order[:, 12:-1] >= in_order[:, 13:]).all()
    assert (picks.sort(dim=1).values == torch.arange(200)).all()


def test_rounding_does_not_add_up():
    """Each token is mostly a mixture of those before it, and relevance asks for them in this order.

    Single precision has to pick what double precision picks.
    """
    for seed in range(1, 6):
        generator = torch.Generator().manual_seed(seed)
        mixture = torch.randn(40, 40, generator=generator).tril(-1)
        mixture = 0.995 * torch.nn.functional.normalize(mixture, dim=-1) + 0.1 * torch.eye(40)
        features = torch.cat([mixture, torch.randn(88, 40, generator=generator) @ mixture])[None]
        relevance = torch.cat([10 ** (-0.3 * torch.arange(40)), torch.full((88,), 1e-14)])[None]
        valid = torch.ones(1, 128, dtype=torch.bool)
        picks = greedy_dpp(features, relevance, valid, 35)
        assert torch.equal(picks, greedy_dpp(features.double(), relevance.double(), valid, 35))


def test_no_relevance_is_no_gain():
    """Token 0 differs from all others, but its relevance is 0: the more relevant duplicate goes first."""
    picks = greedy_dpp(torch.eye(2)[[0, 1, 1]][None], torch.tensor([[0.0, 0.5, 0.5]]), ALL[:, :3], 3)
    assert picks.tolist() == [[1, 2, 0]]


def test_a_zero_vector_has_no_gain():
    picks = greedy_dpp(torch.eye(3, 2)[[2, 0, 1]][None], torch.tensor([[1.0, 0.5, 0.2]]), ALL[:, :3], 3)
    assert picks.tolist() == [[1, 2, 0]]


def test_equal_gains_go_to_the_lower_index():
    """All units: rounding of their lengths must not decide."""
    features = torch.randn(1, 300, 7, generator=torch.Generator().manual_seed(0))
    assert greedy_dpp(features, torch.ones(1, 300), torch.ones(1, 300, dtype=torch.bool), 1).tolist() == [[0]]


def test_equal_tokens_come_in_their_order_among_others():
    """As the line ends of an image: products of matrices round equal columns apart."""
    generator = torch.Generator().manual_seed(0)
    for tokens in range(20, 90):
        features = torch.randn(1, tokens, 70, generator=generator)
        same = torch.randperm(tokens, generator=generator)[:8].sort().values
        features[0, same] = features[0, same[0]].clone()
        order = CDPruner().order(inputs_of(features, torch.randn(1, 3, 70, generator=generator)), tokens)[0]
        assert [token for token in order.tolist() if token in same] == same.tolist(), tokens


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("tokens", [0, 1, 2, 9])
def test_equal_tokens_come_in_their_order(value, tokens):
    inputs = inputs_of(torch.full((1, tokens, 5), value), torch.ones(1, 2, 5))
    assert CDPruner().ranks(inputs).tolist() == [list(range(tokens))]
    for count in range(tokens + 1):
        assert CDPruner().choose(inputs, torch.tensor([count])).sum() == count


@pytest.mark.parametrize("name", ["embeddings", "question_embeddings"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_numbers_are_refused_where_they_count(name, value):
    inputs = make_signals(torch.tensor([[False, True, True]]), CDPruner.needs)
    mask = inputs.valid if name == "embeddings" else inputs.question_valid
    broken = getattr(inputs, name).clone()
    broken[0, int(mask[0].nonzero()[0, 0]), 0] = value
    with pytest.raises(VispcoError, match="a selector met NaN"):
        CDPruner().order(SelectorInputs(**{**vars(inputs), name: broken}), 2)


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 4, 9])
def test_flops_are_those_of_its_products(kept):
    inputs = make_signals(torch.ones(1, 9, dtype=torch.bool), CDPruner.needs)
    shape = DecoderShape(layers=1, hidden=WIDTH, heads=1, kv_heads=1, head_dim=WIDTH, mlp=1, vocabulary=1)
    with FlopCounterMode(display=False) as counter:
        CDPruner().choose(inputs, torch.tensor([kept]))
    cosines = 2 * 9 * WIDTH  # sums over rows, which the counter does not see
    ours = CDPruner().own_flops(Cut(shape, tokens=14, visual=9, kept=kept, question=5))
    assert counter.get_total_flops() + cosines == ours


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, -1, "true", None])
def test_refused_parameters(value):
    with pytest.raises(ConfigError, match=r"selector parameter negated = .* is not true or false; choose one"):
        CDPruner(negated=value)


def test_needs_embeddings_alone():
    """So that tokens can be dropped before the first layer."""
    assert CDPruner.needs == {"embeddings"}
