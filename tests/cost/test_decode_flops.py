"""FLOPs of decoding equal hand-computed numbers; the suite in vispco.testing holds them against PyTorch's counter."""

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig

from vispco.cost import DecodeFlopCost

SIZES = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "vocab_size": 64,
}  # fmt: skip
LLAMA = LlamaConfig(**SIZES)
SLIDING = Gemma3TextConfig(**SIZES, sliding_window=8, layer_types=["sliding_attention", "full_attention"])
LAYER = 2 * 48 * 40 + 2 * 2 * 48 * 20 + 2 * 40 * 48 + 3 * 2 * 48 * 80
"""One token through query, key, value and output projections and a gated MLP."""
HEAD = 2 * 48 * 64
KEY = 2 * 2 * 40
"""One query against one key, and one value into the sum, in all heads."""


def test_one_token_by_hand():
    """It sees the 23 tokens of the prompt and itself."""
    cost = DecodeFlopCost(LLAMA, [(7, 16)], 1)
    assert cost.unpruned == 2 * LAYER + HEAD + 2 * 24 * KEY
    assert cost.amount([1.0, 0.5]) == 2 * LAYER + HEAD + (24 + 16) * KEY
    assert cost.basis == "1 new tokens"


def test_every_token_sees_one_more():
    cost = DecodeFlopCost(LLAMA, [(7, 16)], 3)
    assert cost.unpruned == 3 * (2 * LAYER + HEAD) + 2 * (24 + 25 + 26) * KEY
    assert cost.amount([1.0, 0.25]) == 3 * (2 * LAYER + HEAD) + (24 + 25 + 26 + 12 + 13 + 14) * KEY


def test_a_window_shows_no_more_than_its_width():
    """Layer 0 has a window of 8: the keys are 6, 7, 8, 8, 8."""
    cost = DecodeFlopCost(SLIDING, [(1, 16)], 5)
    keys = 6 + 7 + 8 + 8 + 8 + sum(range(6, 11))
    assert cost.amount([0.25, 0.25]) == 5 * (2 * LAYER + HEAD) + keys * KEY


def test_no_token_costs_nothing_and_is_no_cost():
    assert DecodeFlopCost(LLAMA, [(7, 16)], 0).amount([1.0, 0.5]) == 0


def test_samples_are_weighted():
    cost = DecodeFlopCost(LLAMA, [(7, 16), (3, 32), (7, 16)], 1)
    assert cost.unpruned == pytest.approx(2 * LAYER + HEAD + 2 * KEY * (24 + 36 + 24) / 3, rel=1e-12)


@pytest.mark.parametrize("keep", [[1.0, 1.0], [1.0, 0.5], [0.5, 0.25], [0.0625, 0.0625]])
def test_soft_is_exact_where_nothing_is_rounded(keep):
    cost = DecodeFlopCost(SLIDING, [(1, 16), (5, 32)], 4)
    assert float(cost.soft(torch.tensor(keep))) == pytest.approx(cost.exact(keep), rel=1e-12)


def test_a_full_window_has_no_slope():
    ratios = torch.tensor([1.0, 0.5], requires_grad=True)
    DecodeFlopCost(SLIDING, [(3, 16)], 2).soft(ratios).backward()
    whole = DecodeFlopCost(SLIDING, [(3, 16)], 2).unpruned
    assert ratios.grad.tolist() == pytest.approx([0.0, 2 * 16 * KEY / whole])
