"""Random is uniform, repeatable, and depends on nothing but its seed and the sample."""

import pytest
import torch

from vispco.errors import ConfigError
from vispco.selectors import SelectorInputs, make_selector, rank_tokens

KEYS = torch.arange(4000)
"""Neighbouring keys are the hard case: they must give unrelated permutations."""


def ranks(seed, keys, tokens=8):
    valid = torch.ones(len(keys), tokens, dtype=torch.bool)
    return rank_tokens(make_selector("random", {"seed": seed}).score(SelectorInputs(valid, sample_key=keys)), valid)


def chi_square(cells, number):
    """Statistic of ``cells`` in 0..number-1 against a uniform distribution; mean number - 1, variance twice that."""
    expected = len(cells) / number
    return float((torch.bincount(cells, minlength=number) - expected).square().sum() / expected)


@pytest.mark.parametrize("draws", ["samples", "seeds"])
def test_uniform(draws):
    """The best and the second best token: each of the 56 ordered pairs is as likely as any other."""
    if draws == "samples":
        table = ranks(0, KEYS)
    else:
        table = torch.cat([ranks(seed, torch.tensor([123])) for seed in range(1000)])
    order = table.argsort(dim=1)
    pairs = order[:, 0] * 8 + order[:, 1]
    cells = torch.unique(pairs, return_inverse=True)[1]
    assert int(cells.max()) == 55
    assert chi_square(cells, 56) < 55 + 5 * (2 * 55) ** 0.5
    assert chi_square(order[:, 0], 8) < 7 + 5 * (2 * 7) ** 0.5
    assert chi_square(order[:, 7], 8) < 7 + 5 * (2 * 7) ** 0.5


def test_seeds_and_samples_are_unrelated():
    """Ranks of the same token under two seeds, or in two samples, agree in one case of eight."""
    first, second = ranks(0, KEYS), ranks(1, KEYS)
    for other in (second, first.roll(1, dims=0)):
        share = float((first == other).double().mean())
        assert share == pytest.approx(1 / 8, abs=0.01)


def test_repeatable_whatever_the_batch():
    together = ranks(5, KEYS[:50])
    assert torch.equal(together, ranks(5, KEYS[:50]))
    assert torch.equal(together.flip(0), ranks(5, KEYS[:50].flip(0)))
    assert torch.equal(together[17:18], ranks(5, KEYS[17:18]))


def test_draws_have_enough_bits_to_tell_tokens_apart():
    valid = torch.ones(20, 576, dtype=torch.bool)
    scores = make_selector("random").score(SelectorInputs(valid, sample_key=KEYS[:20]))
    assert torch.equal(scores, scores.double().float())
    assert sum(len(row.unique()) for row in scores) > 20 * 576 - 10


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_seeds_that_are_taken(seed):
    assert ranks(seed, KEYS[:2]).shape == (2, 8)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "3", None, True])
def test_seeds_that_are_refused(seed):
    with pytest.raises(ConfigError, match=r"^selector parameter seed = .* is not a whole number") as caught:
        make_selector("random", {"seed": seed})
    assert repr(seed) in str(caught.value)
