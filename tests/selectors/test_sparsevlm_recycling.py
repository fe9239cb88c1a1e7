"""SparseVLM with token recycling: how many are recycled, the worked example, and a slow oracle."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import exp, floor, log

import numpy as np
import pytest
import torch

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.sparsevlm import SparseVLM
from vispco.selectors.sparsevlm_recycling import SparseVLMRecycling


def from_scores(scores, hidden, images=None, sizes=None):
    """One sample whose only question token gives the scores."""
    tokens = len(scores)
    return SelectorInputs(
        valid=torch.ones(1, tokens, dtype=torch.bool),
        images=torch.tensor([images or [0] * tokens]),
        sizes=torch.tensor([sizes or [1.0] * tokens]),
        question_valid=torch.ones(1, 1, dtype=torch.bool),
        question_rows=torch.tensor(scores)[None, None],
        embeddings=torch.zeros(1, tokens, 1),
        question_embeddings=torch.zeros(1, 1, 1),
        hidden=hidden[None],
    )


def merge(inputs, count, **parameters):
    choice = SparseVLMRecycling(**parameters).merge(inputs, torch.tensor([count]))
    return choice.kept[0].nonzero()[:, 0].tolist(), choice.weights[0]


# --- worked example --------------------------------------------------------------------------------------------------

SCORES = [0.30, 0.05, 0.12, 0.25, 0.20, 0.08]


def test_example():
    """Of three tokens two are the best, and the third the mean of the next two; it stands where the better stood."""
    hidden = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    kept, weights = merge(from_scores(SCORES, hidden), 3)
    assert kept == [0, 3, 4]
    assert torch.equal(weights @ hidden, torch.stack([hidden[0], hidden[3], (hidden[4] + hidden[2]) / 2]))
    stay, recycled = SparseVLMRecycling().split(torch.tensor([3]), torch.tensor([6]))
    assert (stay.tolist(), recycled.tolist()) == ([2], [2])


def test_example_with_tokens_that_were_merged_before():
    """Token 4 is made of three tokens, 2 of one: as if all four were merged now."""
    inputs = from_scores(SCORES, torch.zeros(6, 4), sizes=[9.0, 1.0, 1.0, 2.0, 3.0, 5.0])
    kept, weights = merge(inputs, 3)
    assert kept == [0, 3, 4]
    assert weights.tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0.25, 0, 0.75, 0]]


# --- how many --------------------------------------------------------------------------------------------------------

MOST = 700


def clusters_of(pool):
    """Clusters of the recycled ones of a pool, in whole numbers."""
    recycled = min(pool, 3 * pool // 10 + 1)
    return recycled, min(recycled, recycled // 10 + 1)


def test_clusters_grow_by_at_most_one():
    """So that k + c(N - k) rises by 0 or 1 with k and takes every value from c(N) to N."""
    steps = {clusters_of(pool + 1)[1] - clusters_of(pool)[1] for pool in range(MOST)}
    assert steps == {0, 1}
    assert clusters_of(0) == (0, 0)


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.58, 1.0])
@pytest.mark.parametrize("theta", [0.0, 0.1, 0.6, 1.0])
def test_clusters_grow_by_at_most_one_for_any_parameters(tau, theta):
    share, fold = Fraction(str(tau)), Fraction(str(theta))
    clusters = []
    for pool in range(61):
        recycled = min(pool, floor(share * pool) + 1)
        clusters.append((recycled, min(recycled, floor(fold * recycled) + 1)))
    assert {after - before for (_, before), (_, after) in pairwise(clusters)} <= {0, 1}
    for total in range(61):
        counts = torch.arange(total + 1)
        stay, recycled = SparseVLMRecycling(tau, theta).split(counts, torch.full_like(counts, total))
        sums = [k + clusters[total - k][1] for k in range(total + 1)]
        expected = [
            max([k for k, reached in enumerate(sums) if reached <= count], default=0) for count in range(total + 1)
        ]
        assert stay.tolist() == expected
        assert recycled.tolist() == [clusters[total - k][0] for k in expected]


def test_every_count_is_met():
    """For all N <= 700: k_0 + c(N - k_0) = K, with the largest k_0; below c(N) nothing stays as it is."""
    table = torch.tensor([clusters_of(pool) for pool in range(MOST + 1)])
    for total in range(MOST + 1):
        step = 1 if total < 80 else 13
        counts = torch.arange(total % step, total + 1, step)
        stay, recycled = SparseVLMRecycling().split(counts, torch.full_like(counts, total))
        pool = total - stay
        assert torch.equal(recycled, table[pool, 0])
        reached = counts >= table[total, 1]
        assert torch.equal((stay + table[pool, 1])[reached], counts[reached])
        assert (stay + 1 + table[(pool - 1).clamp(min=0), 1] > counts)[reached & (pool > 0)].all()
        assert not stay[~reached].any()
        assert stay[-1] == total, "where all stay none is merged"


def test_samples_are_split_on_their_own():
    """Though the longest sample has more tokens than the others."""
    counts, totals = torch.tensor([3, 2, 0, 20]), torch.tensor([6, 2, 4, 30])
    stay, recycled = SparseVLMRecycling().split(counts, totals)
    assert stay.tolist() == [2, 2, 0, 19]
    assert recycled.tolist() == [2, 0, 2, 4]


@pytest.mark.parametrize(
    ("stay", "counts"),
    [
        ((300, 200, 110), (309, 204, 113)),
        ((303, 110, 36), (312, 117, 39)),
        ((238, 48, 26), (249, 55, 27)),
        ((66, 30, 17), (82, 32, 18)),
    ],
)
def test_published_counts(stay, counts):
    had = torch.tensor([576, *counts[:2]])
    assert SparseVLMRecycling().split(torch.tensor(counts), had)[0].tolist() == list(stay)


# --- slow oracle -----------------------------------------------------------------------------------------------------


def clusters_by_loops(points, number, forced):
    """Density peaks from the definition; the index of the centre of every point."""
    size = range(len(points))
    gaps = [[np.linalg.norm(points[i] - points[j]) / points.shape[1] ** 0.5 for j in size] for i in size]
    density = [exp(-sum(gap**2 for gap in sorted(gaps[i])[:number]) / number) for i in size]
    peak = []
    for i in size:
        denser = [gaps[i][j] for j in size if density[j] > density[i] or (density[j] == density[i] and j < i)]
        peak.append(density[i] * min(denser, default=max(map(max, gaps))))
    centres = sorted(size, key=lambda i: (not forced[i], 0 if forced[i] else -peak[i], i))[:number]
    return [i if i in centres else min(centres, key=lambda j: (gaps[i][j], j)) for i in size]


def oracle(scores, hidden, images, sizes, count, tau, theta):
    """Rows of weights by kept token, for one sample without tokens that are gone."""
    total = len(scores)
    order = sorted(range(total), key=lambda j: (-scores[j], j))
    leads = [next(j for j in order if images[j] == image) for image in set(images)]
    leads = leads if len(leads) > 1 else []
    order = sorted(order, key=lambda j: j not in leads)

    def recycled(pool):
        return min(pool, int(tau * pool + 1e-9) + 1)

    def clusters(pool):
        return min(recycled(pool), int(theta * recycled(pool) + 1e-9) + 1)

    stay = max([k for k in range(total + 1) if k + clusters(total - k) <= count], default=0)
    rows = {j: {j: 1.0} for j in order[:stay]}
    again = order[stay : stay + recycled(total - stay)]
    if count > stay:
        centre_of = clusters_by_loops(hidden[again], count - stay, [j in leads for j in again])
        for member, centre in enumerate(centre_of):
            rows.setdefault(again[centre], {})[again[member]] = sizes[again[member]]
    return {j: {i: part / sum(row.values()) for i, part in row.items()} for j, row in rows.items()}


def signals(generator, batch=50):
    """A ragged batch of several images and merged tokens; in every other one a third of the tokens are duplicates."""
    tokens, width = int(generator.integers(1, 30)), int(generator.integers(1, 5))
    valid = torch.from_numpy(generator.random((batch, tokens)) < generator.random((batch, 1)) * 1.5)
    hidden = generator.standard_normal((batch, tokens, width)) * generator.choice([0.1, 1.0, 3.0])
    if generator.random() < 0.5:
        hidden = hidden[:, generator.integers(0, 1 + 2 * tokens // 3, tokens)]
    return SelectorInputs(
        valid=valid,
        images=torch.from_numpy(np.sort(generator.integers(0, generator.integers(1, 4), (batch, tokens)), axis=1)),
        sizes=torch.from_numpy(generator.integers(1, 4, (batch, tokens))).float(),
        question_valid=torch.ones(batch, 1, dtype=torch.bool),
        question_rows=torch.from_numpy(generator.random((batch, 1, tokens)).round(2)).float(),
        embeddings=torch.zeros(batch, tokens, 1),
        question_embeddings=torch.zeros(batch, 1, 1),
        hidden=torch.from_numpy(hidden).float().masked_fill(~valid[:, :, None], 1e30),
    )


@pytest.mark.parametrize("seed", range(24))
def test_agrees_with_the_oracle(seed):
    generator = np.random.default_rng(seed)
    inputs = signals(generator)
    tau, theta = ((0.3, 0.1), (1.0, 0.1), (0.5, 0.3), (1.0, 0.5), (0.0, 1.0), (0.8, 0.0))[seed % 6]
    counts = torch.from_numpy(generator.integers(0, inputs.valid.sum(dim=1).numpy() + 1))
    choice = SparseVLMRecycling(tau, theta).merge(inputs, counts)
    assert torch.equal(choice.kept.sum(dim=1), counts)
    for row in range(len(counts)):
        there = inputs.valid[row].nonzero()[:, 0].tolist()
        parts = [inputs.question_rows[row, 0], inputs.hidden[row].double(), inputs.images[row], inputs.sizes[row]]
        scores, hidden, images, sizes = (part[there].numpy() for part in parts)
        rows = oracle(scores, hidden, images.tolist(), sizes.tolist(), int(counts[row]), tau, theta)
        expected = np.zeros(choice.weights.shape[1:])
        for place, target in enumerate(sorted(rows)):
            for member, weight in rows[target].items():
                expected[place, there[member]] = weight
        assert choice.kept[row].nonzero()[:, 0].tolist() == [there[j] for j in sorted(rows)]
        assert choice.weights[row].numpy() == pytest.approx(expected, abs=1e-6)


# --- properties ------------------------------------------------------------------------------------------------------


def test_a_single_recycled_token_is_the_next_best():
    """Without a share of the pool, the K best by score stay as they are."""
    inputs = signals(np.random.default_rng(5))
    inputs = replace(inputs, images=torch.zeros_like(inputs.images))
    counts = inputs.valid.sum(dim=1) // 2
    choice = SparseVLMRecycling(tau=0.0).merge(inputs, counts)
    assert torch.equal(choice.kept, SparseVLM().choose(inputs, counts))
    assert torch.equal(choice.weights.sum(dim=(1, 2)).long(), counts)
    assert set(choice.weights.unique().tolist()) == {0.0, 1.0}


def test_raters_are_those_of_sparsevlm():
    """Of three question tokens the last rates alone; the mean of all would keep token 0."""
    inputs = SelectorInputs(
        valid=torch.ones(1, 2, dtype=torch.bool),
        images=torch.zeros(1, 2, dtype=torch.int64),
        sizes=torch.ones(1, 2),
        question_valid=torch.ones(1, 3, dtype=torch.bool),
        question_rows=torch.tensor([[[0.9, 0.1], [0.9, 0.1], [0.2, 0.3]]]),
        embeddings=torch.tensor([[[0.0, 0.0, log(4)], [0.0, 0.0, 0.0]]]),
        question_embeddings=torch.eye(3)[None],
        hidden=torch.zeros(1, 2, 1),
    )
    assert merge(inputs, 1)[0] == [1]


def test_every_image_has_a_token_while_there_are_enough():
    """The best of image 1 is token 4. It stays, or is a centre, though the density peaks are tokens 0 and 5."""
    hidden = torch.tensor([0.0, 0.125, 0.25, 5.0, 0.375, 5.125])[:, None]
    inputs = from_scores([0.6, 0.5, 0.4, 0.01, 0.3, 0.2], hidden, images=[0, 0, 0, 1, 1, 0])
    kept, weights = merge(inputs, 3)
    assert kept == [0, 1, 4]
    assert weights[1].tolist() == [0, 0.5, 0.5, 0, 0, 0]
    kept, weights = merge(inputs, 2, tau=1.0, theta=0.3)
    assert kept == [0, 4], "nothing stays as it is, and both are centres"
    assert weights.tolist() == [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.25, 0.25, 0.25, 0.25]]
    alone = replace(inputs, images=torch.zeros(1, 6, dtype=torch.int64))
    assert merge(alone, 2, tau=1.0, theta=0.3)[0] == [0, 5], "a single image has no such token"
    assert merge(inputs, 1, tau=1.0)[0] == [0]


def test_no_token_and_no_count():
    for tokens in (0, 3):
        inputs = from_scores([0.5] * tokens, torch.zeros(tokens, 2))
        kept, weights = merge(inputs, 0)
        assert kept == []
        assert weights.shape == (0, tokens)


def test_question_without_words_keeps_the_first_and_merges_the_next():
    inputs = replace(from_scores(SCORES, torch.zeros(6, 2)), question_valid=torch.zeros(1, 1, dtype=torch.bool))
    kept, weights = merge(inputs, 3)
    assert kept == [0, 1, 2]
    assert weights[2].tolist() == [0, 0, 0.5, 0.5, 0, 0]


@pytest.mark.parametrize("name", ["hidden", "question_rows"])
def test_nan_is_refused_in_any_token_that_is_there(name):
    inputs = from_scores(SCORES, torch.zeros(6, 1))
    broken = getattr(inputs, name).clone()
    broken.view(-1)[1] = torch.nan  # the token that scores worst, and is dropped
    inputs = replace(inputs, **{name: broken})
    with pytest.raises(VispcoError, match="NaN"):
        merge(inputs, 3)
    assert len(merge(replace(inputs, valid=torch.tensor([[1, 0, 1, 1, 1, 1]]).bool()), 3)[0]) == 3


def test_flops_are_those_of_the_scores_and_of_distances():
    shape = DecoderShape(layers=1, hidden=8, heads=2, kv_heads=2, head_dim=4, mlp=1, vocabulary=1)
    cut = Cut(shape, tokens=600, visual=576, kept=309, question=7)
    assert SparseVLMRecycling().own_flops(cut) == SparseVLM().own_flops(cut) + 2 * 83**2 * 8


@pytest.mark.parametrize("name", ["tau", "theta"])
@pytest.mark.parametrize("value", [-0.1, 1.5, "3", None, float("nan")])
def test_refused_parameters(name, value):
    with pytest.raises(ConfigError, match=rf"selector parameter {name} = .* is not a number in 0\.\.1"):
        SparseVLMRecycling(**{name: value})
