"""Bytes of the cache and of the peak equal hand-computed numbers, real caches and counted storages."""

from functools import partial

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, LlamaModel

from vispco.config import ModelCard, PruningConfig
from vispco.cost import KvCost, PeakCost
from vispco.engine import prune
from vispco.errors import BudgetError
from vispco.profiling import peak_bytes
from vispco.testing import MODELS, Sample

LLAMA = LlamaConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=10, vocab_size=64,
)  # fmt: skip
SLIDING = Gemma3TextConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=10, vocab_size=64, sliding_window=8,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)  # fmt: skip
PER_TOKEN = 2 * 2 * 10 * 4
"""Bytes of a key and a value of two heads of ten float32 numbers."""


# --- the cache -------------------------------------------------------------------------------------------------------


def test_cache_by_hand():
    cost = KvCost(LLAMA, [(7, 16)], torch.float32)
    assert cost.unpruned == 3 * 23 * PER_TOKEN
    assert cost.amount([1.0, 0.5, 0.25]) == (23 + 15 + 11) * PER_TOKEN
    assert cost.exact([1.0, 0.5, 0.25]) == 49 / 69
    assert KvCost(LLAMA, [(7, 16)], torch.bfloat16).unpruned == cost.unpruned / 2


def test_cache_of_sliding_windows_by_hand():
    """A window of 8 keeps 7 tokens: the next one takes the eighth place."""
    cost = KvCost(SLIDING, [(3, 16)], torch.float32)
    assert cost.unpruned == (7 + 19 + 7) * PER_TOKEN
    assert cost.amount([1.0, 0.5, 0.125]) == (7 + 11 + 5) * PER_TOKEN
    assert cost.held(cost.prompts[0], [16, 16, 4]) == [7 * PER_TOKEN, 19 * PER_TOKEN, 7 * PER_TOKEN]


def test_cache_of_several_samples_is_a_ratio_of_means():
    cost = KvCost(LLAMA, [(7, 16), (7, 16), (3, 32), (5, 0)], torch.float32)
    assert cost.unpruned == 3 * PER_TOKEN * (23 + 23 + 35 + 5) / 4
    assert cost.exact([1.0, 0.5, 0.5]) == pytest.approx((2 * (23 + 15 + 15) + 35 + 19 + 19 + 15) / (3 * 86))


def test_images_keep_a_token_each():
    cost = KvCost(LLAMA, [(7, 16, 4)], torch.float32)
    assert cost.amount([1.0, 0.01, 0.01]) == (23 + 11 + 11) * PER_TOKEN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_cache_of_every_family_to_the_byte(name, dtype):
    """One sample at a time; the cost of two is the mean of both caches."""
    model = MODELS[name]
    net = model.build(dtype)
    layers = net.config.get_text_config().num_hidden_layers
    keep = (1.0, 1.0, *(0.5,) * (layers - 3), 0.25)
    held, whole, tokens = [], [], []
    for sample in (Sample(3, 1, 6, seed=7), Sample(1, 2, 4, seed=8)):
        inputs = model.inputs([sample], dtype=dtype)
        config = PruningConfig(selector="fastv", keep=keep, model=ModelCard(type=model.model_type, layers=layers))
        with torch.no_grad():
            whole.append(_bytes(net(**inputs, use_cache=True).past_key_values))
            with prune(net, config) as pruned:
                held.append(_bytes(net(**inputs, use_cache=True).past_key_values))
        visual = pruned.kept[0].shape[1]
        tokens.append((inputs["input_ids"].shape[1] - visual, visual, _blocks(inputs["input_ids"], visual)))
    cost = KvCost(net.config, tokens, dtype)
    assert cost.unpruned == sum(whole) / 2
    assert cost.amount(keep) == sum(held) / 2
    assert cost.amount(keep) < cost.unpruned


def _bytes(cache):
    return sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))


def _blocks(ids, visual):
    """Runs of the token that stands for images: the commonest one."""
    there = ids[0] == ids[0].mode().values
    assert int(there.sum()) == visual
    return int((there.int().diff(prepend=torch.zeros(1, dtype=torch.int)) == 1).sum())


def test_soft_cache_is_the_exact_one_where_nothing_is_rounded():
    cost = KvCost(SLIDING, [(3, 16), (9, 32)], torch.float32)
    for keep in ([1.0, 1.0, 1.0], [1.0, 0.5, 0.25], [0.5, 0.25, 0.0625]):
        assert float(cost.soft(torch.tensor(keep))) == pytest.approx(cost.exact(keep), rel=1e-12)


def test_a_full_window_has_no_slope():
    ratios = torch.tensor([1.0, 0.75, 0.125], requires_grad=True)
    cost = KvCost(SLIDING, [(3, 16)], torch.float32)
    cost.soft(ratios).backward()
    assert ratios.grad.tolist() == pytest.approx([0.0, 16 / 33, 16 / 33])


def test_a_budget_below_the_text_is_refused():
    cost = KvCost(LLAMA, [(7, 16)], torch.float32)
    with pytest.raises(BudgetError, match=r"budget 0\.3 of kv cannot be reached: .* from 0\.565 "):
        cost.check_budget(0.3, [1.0, 1 / 16, 1 / 16])


# --- the peak --------------------------------------------------------------------------------------------------------


def test_peak_by_hand():
    """Unpruned the last layer decides; after a cut an earlier one may."""
    cost = PeakCost(LLAMA, [(7, 16)], torch.float32)
    per_token = 4 * (3 * 48 + 3 * 80)
    assert cost.unpruned == 4 * 48 * 23 + per_token * 23 + 3 * 23 * PER_TOKEN
    assert cost.amount([1.0, 1.0, 0.25]) == 4 * 48 * 23 + per_token * 23 + 2 * 23 * PER_TOKEN
    assert cost.amount([0.5, 0.5, 0.5]) == 4 * 48 * 23 + per_token * 15 + 3 * 15 * PER_TOKEN


def test_soft_peak_is_the_exact_one_where_nothing_is_rounded():
    cost = PeakCost(SLIDING, [(3, 16), (9, 32)], torch.float32)
    for keep in ([1.0, 1.0, 1.0], [1.0, 0.5, 0.25], [0.5, 0.25, 0.0625]):
        assert float(cost.soft(torch.tensor(keep))) == pytest.approx(cost.exact(keep), rel=1e-12)


@pytest.mark.parametrize("kv_heads", [8, 1])
@pytest.mark.parametrize("layers", [2, 12])
def test_peak_of_a_decoder_is_near_what_storages_count(layers, kv_heads):
    """It leaves rotary tables out."""
    config = LlamaConfig(
        hidden_size=128, intermediate_size=344, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=kv_heads, vocab_size=64,
    )  # fmt: skip
    model = LlamaModel(config).eval()
    cost = PeakCost(config, [(40, 216)], torch.float32)

    @torch.no_grad()
    def forward():
        # The decoder's input is made inside, as it counts.
        return model(inputs_embeds=torch.randn(1, 256, 128), use_cache=True)

    assert 0.97 <= cost.unpruned / peak_bytes(forward, "cpu") <= 1.0


def test_peak_under_a_schedule_follows_what_storages_count():
    """After layer 0 has run on all tokens, a cut saves only what later layers would have put into the cache."""
    net = MODELS["llava"].build()
    inputs = MODELS["llava"].inputs([Sample(20, 24, 20, seed=1)])
    visual = 24 * 16
    tokens = (inputs["input_ids"].shape[1] - visual, visual, 24)
    cost, forward = PeakCost(net.config, [tokens], torch.float32), partial(net, **inputs, use_cache=True)
    keep = (1.0, 0.5, 0.5, 0.5)
    with torch.no_grad():
        whole = peak_bytes(forward, "cpu")
        with prune(net, PruningConfig(selector="fastv", keep=keep, model=ModelCard(type="llava", layers=4))):
            pruned = peak_bytes(forward, "cpu")
    assert cost.exact(keep) < 0.8
    assert pruned / whole == pytest.approx(cost.exact(keep), abs=0.02)
