"""Cache layers that hold the kept tokens and answer in slots of the unpruned sequence."""

import pytest
import torch
from builders import build_batch
from transformers import DynamicCache, StaticCache

from vispco import ModelCard, PruningConfig, prune
from vispco.engine.cache import LogicalLayer, take_over
from vispco.errors import ModelError

SLOTS = torch.tensor([[0, 2, 5], [-1, 1, 5]])


@pytest.fixture
def layer():
    """Three keys of two samples, out of a sequence of six."""
    cache = LogicalLayer()
    cache.expect(SLOTS, True, 6)
    cache.update(torch.arange(2 * 3 * 2.0).view(2, 1, 3, 2), torch.zeros(2, 1, 3, 2))
    return cache


def test_the_length_is_the_unpruned_one(layer):
    assert layer.get_seq_length() == 6
    assert layer.keys.shape[-2] == 3
    assert layer.get_mask_sizes(1) == (7, 0)
    assert LogicalLayer().get_seq_length() == 0


def test_new_tokens_stand_at_the_end(layer):
    assert layer.visible_slots(2).tolist() == [[0, 2, 5, 6, 7], [-1, 1, 5, 6, 7]]
    layer.update(torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2))
    assert layer.get_seq_length() == 8
    assert layer.slots.tolist() == [[0, 2, 5, 6, 7], [-1, 1, 5, 6, 7]]


def test_cropping_takes_the_last_tokens(layer):
    layer.update(torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2))
    layer.crop(-2)
    assert layer.slots.tolist() == SLOTS.tolist()
    assert (layer.get_seq_length(), layer.keys.shape[-2]) == (6, 3)
    layer.crop(0)
    assert layer.get_seq_length() == 6


def test_samples_are_reordered_repeated_and_selected_together(layer):
    first = layer.keys.clone()
    layer.reorder_cache(torch.tensor([1, 0]))
    assert layer.slots.tolist() == SLOTS.flip(0).tolist()
    assert torch.equal(layer.keys, first.flip(0))
    layer.batch_repeat_interleave(2)
    assert layer.slots[:, 0].tolist() == [-1, -1, 0, 0]
    layer.batch_select_indices(torch.tensor([0, 3]))
    assert layer.slots.tolist() == SLOTS.flip(0).tolist()
    assert torch.equal(layer.keys, first.flip(0))


def test_resetting_forgets_everything(layer):
    layer.reset()
    assert (layer.get_seq_length(), layer.slots) == (0, None)


def test_what_left_the_window_cannot_be_gone_back_to():
    cache = LogicalLayer(window=4)
    cache.expect(None, False, 6)
    cache.update(torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2))
    with pytest.raises(RuntimeError, match="call activate_past_recording first"):
        cache.crop(-1)


def test_a_recorded_past_can_be_gone_back_to_and_is_forgotten_then():
    cache = LogicalLayer(window=4)
    cache.record_past = True
    cache.expect(None, False, 6)
    cache.update(torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2))
    assert cache.keys.shape[-2] == 6
    cache.crop(-1)
    assert (cache.get_seq_length(), cache.keys.shape[-2]) == (5, 3)


def test_without_slots_it_is_a_dynamic_layer():
    cache = LogicalLayer()
    cache.expect(None, False, 4)
    cache.update(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2))
    cache.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    cache.batch_repeat_interleave(3)
    cache.reorder_cache(torch.tensor([2, 1, 0]))
    cache.batch_select_indices(torch.tensor([0]))
    cache.crop(-1)
    assert cache.slots is None
    assert (cache.get_seq_length(), cache.keys.shape[-2]) == (4, 4)


def test_only_dynamic_caches_are_taken_over(tiny_llava):
    cache = DynamicCache()
    assert take_over(cache, 4) == cache.layers
    config = tiny_llava.config.get_text_config()
    with pytest.raises(ModelError, match="StaticCache cannot hold layers of different length"):
        take_over(StaticCache(config=config, max_cache_len=8), 4)


def test_prompt_lookup_decoding_crops_a_pruned_cache(tiny_llava):
    """Assisted decoding guesses tokens, checks several at once and crops the wrong ones; greedy text stays the same."""
    batch = build_batch([(2, 5)], [1])
    config = PruningConfig(selector="fastv", keep=(1.0, 0.5, 0.5, 0.2), model=ModelCard(type="llava", layers=4))
    with prune(tiny_llava, config):
        plain = tiny_llava.generate(**batch, max_new_tokens=8, do_sample=False)
        # Releases before 5.16 need a token that ends a text, and may return one token more.
        guessed = tiny_llava.generate(
            **batch, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3, eos_token_id=100_000
        )
    assert torch.equal(plain, guessed[:, : plain.shape[1]])


def test_what_assisted_decoding_asked_of_a_cache_is_kept():
    """It asks for past keys before the first forward, so of the layers that are taken over."""
    cache = DynamicCache()
    cache.layers = [LogicalLayer(8), LogicalLayer(8)]
    cache.layers[0].record_past = True
    assert [layer.record_past for layer in take_over(cache, 2)] == [True, False]
