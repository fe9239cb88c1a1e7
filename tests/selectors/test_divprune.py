"""DivPrune against a worked example and against the formula, written out slowly."""

import numpy as np
import pytest
import torch

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.divprune import DivPrune

ANGLES = torch.tensor([0.0, 10.0, 45.0, 90.0, 95.0, 170.0]).deg2rad()
EXAMPLE = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=-1)[None]


def inputs_of(embeddings, valid=None):
    valid = torch.ones(embeddings.shape[:2], dtype=torch.bool) if valid is None else valid
    return SelectorInputs(valid=valid, embeddings=embeddings)


def order_of(embeddings, valid=None):
    """The picks of every sample, as many as it has tokens."""
    inputs = inputs_of(embeddings, valid)
    picks = DivPrune().order(inputs, inputs.valid.shape[1])
    return [row[:count].tolist() for row, count in zip(picks, inputs.valid.sum(dim=1), strict=True)]


def oracle(rows, tokens):
    """Picks among ``tokens`` by the formula, in float64, one pair at a time."""

    def distance(i, j):
        a, b = rows[i].astype(np.float64), rows[j].astype(np.float64)
        return 1.0 - float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))

    picked = []
    while len(picked) < len(tokens):
        best, best_gap = None, -np.inf
        for i in tokens:
            if i in picked:
                continue
            gap = min((distance(i, j) for j in (picked or tokens) if j != i), default=np.inf)
            if gap > best_gap:
                best, best_gap = i, gap
        picked.append(best)
    return picked


def test_worked_example():
    assert order_of(EXAMPLE) == [[5, 0, 3, 2, 1, 4]]
    kept = DivPrune().choose(inputs_of(EXAMPLE), torch.tensor([4]))
    assert kept[0].nonzero()[:, 0].tolist() == [0, 2, 3, 5]


def test_thousand_random_cases():
    generator = torch.Generator().manual_seed(0)
    for case in range(50):
        visual, width = case % 9, 2 + case % 3
        embeddings = torch.randn(20, visual, width, generator=generator) * 10 ** float(case % 5 - 2)
        valid = torch.rand(20, visual, generator=generator) < 0.7
        counts = (torch.rand(20, generator=generator) * (valid.sum(dim=1) + 1)).long()
        inputs = inputs_of(embeddings, valid)
        orders, kept = order_of(embeddings, valid), DivPrune().choose(inputs, counts)
        ranks = DivPrune().ranks(inputs)
        for row in range(20):
            expected = oracle(embeddings[row].numpy(), valid[row].nonzero()[:, 0].tolist())
            assert orders[row] == expected
            assert kept[row].nonzero()[:, 0].tolist() == sorted(expected[: counts[row]])
            assert ranks[row].argsort()[: len(expected)].tolist() == expected


def test_first_picks_do_not_depend_on_their_number():
    embeddings = torch.randn(3, 30, 5, generator=torch.Generator().manual_seed(1))
    whole = DivPrune().order(inputs_of(embeddings), 30)
    for steps in range(31):
        assert torch.equal(DivPrune().order(inputs_of(embeddings), steps), whole[:, :steps])


def test_follows_a_permutation():
    generator = torch.Generator().manual_seed(2)
    embeddings, shuffle = torch.randn(4, 50, 6, generator=generator), torch.randperm(50, generator=generator)
    # Two tokens that are each other's nearest tie for the seed; a lone direction does not.
    embeddings[:, 7] = -embeddings.mean(dim=1) * 50
    plain, shuffled = order_of(embeddings), order_of(embeddings[:, shuffle])
    assert [[shuffle[pick].item() for pick in picks] for picks in shuffled] == plain


def test_only_directions_count():
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(4, 30, 6, generator=generator)
    lengths = torch.rand(4, 30, 1, generator=generator) * 100 + 0.01
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    assert order_of(embeddings * lengths) == order_of(embeddings)
    assert order_of(embeddings @ turn) == order_of(embeddings)


def test_tokens_that_are_gone_do_not_matter():
    generator = torch.Generator().manual_seed(4)
    embeddings = torch.randn(2, 20, 4, generator=generator)
    valid = torch.rand(2, 20, generator=generator) < 0.5
    junk = torch.where(valid[..., None], embeddings, torch.randn(2, 20, 4, generator=generator) * 1e30)
    assert order_of(junk, valid) == order_of(embeddings, valid)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_equal_tokens_go_by_index(fill):
    assert order_of(torch.full((2, 7, 5), fill)) == [list(range(7))] * 2


def test_ties_go_to_the_lower_index():
    """Two tokens are each other's nearest, so both are equally far; axes are all equally far from each other."""
    assert order_of(torch.tensor([[[1.0, 2.0, 3.0], [0.3, 0.1, -4.0]]])) == [[0, 1]]
    assert order_of(torch.eye(5)[None]) == [[0, 1, 2, 3, 4]]
    assert order_of(torch.eye(3).repeat(2, 1)[None]) == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_few_tokens(tokens):
    embeddings = torch.randn(3, tokens, 4)
    valid = torch.ones(3, tokens, dtype=torch.bool)
    valid[1:2] = False
    counts = valid.sum(dim=1)
    assert torch.equal(DivPrune().choose(inputs_of(embeddings, valid), counts), valid)
    assert not DivPrune().choose(inputs_of(embeddings, valid), counts * 0).any()


def test_source():
    embeddings, hidden = EXAMPLE, EXAMPLE.flip(1)
    assert DivPrune().needs == DivPrune("embeddings").needs == {"embeddings"}
    assert DivPrune("hidden").needs == {"hidden"}
    both = SelectorInputs(valid=torch.ones(1, 6, dtype=torch.bool), embeddings=embeddings, hidden=hidden)
    assert DivPrune().order(both, 3).tolist() == [[5, 0, 3]]
    assert DivPrune("hidden").order(both, 3).tolist() == [[0, 5, 2]]


@pytest.mark.parametrize("source", ["keys", "", None, 1, ["hidden"]])
def test_sources_that_are_refused(source):
    with pytest.raises(ConfigError, match=r"^selector parameter source = .* is unknown; choose one of embeddings, hid"):
        DivPrune(source)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_numbers_are_refused_where_they_count(broken):
    embeddings = EXAMPLE.clone()
    embeddings[0, 2, 1] = broken
    with pytest.raises(VispcoError, match="NaN"):
        order_of(embeddings)
    valid = torch.tensor([[True, True, False, True, True, True]])
    assert order_of(embeddings, valid) == [[5, 0, 3, 1, 4]]
