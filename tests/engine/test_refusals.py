"""What would be wrong or meaningless is refused, with the reason and a way out, and nothing is left behind."""

import pytest
import torch
from transformers import DynamicCache, QuantizedCache, StaticCache

from vispco import ModelCard, PruningConfig, prune
from vispco.engine import load_checkpoint
from vispco.engine.families import REFUSED, REGISTRY, describe
from vispco.errors import ConfigError, ModelError
from vispco.testing import MODELS, SELECTORS, Case
from vispco.testing.conformance import SINGLE

FASTV = SELECTORS["fastv"]


@pytest.fixture
def case():
    return Case(MODELS["llava"], FASTV, samples=SINGLE)


@pytest.fixture
def net(case):
    with prune(case.net, case.config()):
        yield case.net


class Architecture:
    def __init__(self, model_type):
        self.config = type("Config", (), {"model_type": model_type})()


@pytest.mark.parametrize("kind", ["mystery", *REFUSED])
def test_other_architectures_are_refused_with_the_list(kind, tmp_path):
    with pytest.raises(ModelError, match=f"{kind!r} is not supported.*llava_next, .*smolvlm") as error:
        describe(Architecture(kind))
    if kind in REFUSED:
        assert REFUSED[kind] in str(error.value)
    assert not set(REFUSED) & set(REGISTRY)


def test_a_model_without_its_head_is_refused(case):
    with pytest.raises(ModelError, match="LlavaModel cannot be pruned as a whole; pass the LlavaForConditional"):
        describe(case.net.model)


def test_wrappers_that_hide_the_model_are_refused(case):
    with pytest.raises(ModelError, match=r"DataParallel is no model of transformers.*its \.module"):
        describe(torch.nn.DataParallel(case.net))


def test_hybrids_are_refused_by_their_layers():
    net = MODELS["internvl"].build()
    describe(net).decoder.config.layer_types = ["linear_attention", "full_attention"] * 2
    with pytest.raises(ModelError, match="linear_attention are neither full nor sliding attention"):
        describe(net)


def test_deepstack_into_the_last_layer_is_refused():
    net = MODELS["qwen3_vl"].build()
    describe(net).decoder.layers = describe(net).layers[:3]
    with pytest.raises(ModelError, match="3 layers ends where the vision tower still adds to it"):
        describe(net)


def test_static_caches_are_refused(net, case):
    with pytest.raises(ModelError, match="StaticCache cannot hold layers of different length"):
        net.generate(**case.inputs, max_new_tokens=2, cache_implementation="static")


def test_static_caches_are_refused_whatever_the_padding():
    case, net = Case(MODELS["llava"], FASTV), MODELS["llava"].build()  # a model remembers the static cache it tried
    with prune(net, case.config()), pytest.raises(ModelError, match="StaticCache cannot hold"):
        net.generate(**case.inputs, max_new_tokens=2, cache_implementation="static")


@pytest.mark.parametrize("kind", [StaticCache, QuantizedCache])
def test_only_dynamic_caches_hold_layers_of_different_length(net, case, kind):
    cache = kind.__new__(kind)
    cache.layers = []
    cache.get_seq_length = lambda: 0
    with pytest.raises(ModelError, match=f"{kind.__name__} cannot hold layers of different length"):
        net(**case.inputs, past_key_values=cache)


@pytest.mark.parametrize("where", ["argument", "configuration", "object"])
def test_chunked_prefill_is_refused(net, case, where, monkeypatch):
    options = {"max_new_tokens": 2}
    if where == "argument":
        options["prefill_chunk_size"] = 8
    elif where == "configuration":
        monkeypatch.setattr(net.generation_config, "prefill_chunk_size", 8, raising=False)
    else:
        options["generation_config"] = type(net.generation_config)(prefill_chunk_size=8)
    with pytest.raises(ModelError, match="prefill_chunk_size = 8 shows a selector one piece"):
        net.generate(**case.inputs, **options)


def test_packed_sequences_are_refused(net, case):
    ids, pixels = case.inputs["input_ids"], case.inputs["pixel_values"]
    restart = torch.arange(ids.shape[1])[None] % 8
    with pytest.raises(ModelError, match="position_ids that start again without an attention_mask"):
        net(input_ids=ids, pixel_values=pixels, position_ids=restart)
    with pytest.raises(ModelError, match="packed sequences"):
        net(**case.inputs, cu_seq_lens_q=torch.tensor([0, 8, ids.shape[1]]))
    plain = net(input_ids=ids, pixel_values=pixels, position_ids=torch.arange(ids.shape[1])[None]).logits
    assert torch.equal(plain, net(**case.inputs).logits)


def test_embeddings_without_token_ids_are_refused(net):
    with pytest.raises(ModelError, match="pass input_ids"):
        net(inputs_embeds=torch.zeros(1, 4, 48))


def test_masks_over_pairs_of_tokens_are_refused(net, case):
    length = case.inputs["input_ids"].shape[1]
    square = torch.ones(1, 1, length, length, dtype=torch.bool)
    with pytest.raises(ModelError, match="4 dimensions; pass the tokenizer's mask"):
        net(**{**case.inputs, "attention_mask": square})


def test_images_after_the_first_turn_are_refused(net, case):
    cache = net(**case.inputs, use_cache=True).past_key_values
    with pytest.raises(ModelError, match="visual tokens after the first prefill"):
        net(**case.inputs, past_key_values=cache)


def test_a_cache_stays_usable_after_a_refused_call(net, case):
    """Nothing is half done: the cache that the refused call was given goes on as before."""
    first = net(**case.inputs, use_cache=True)
    step = torch.tensor([[11]])
    expected = net(input_ids=step, past_key_values=first.past_key_values).logits
    first.past_key_values.crop(-1)
    with pytest.raises(ModelError):
        net(**case.inputs, past_key_values=first.past_key_values)
    torch.testing.assert_close(net(input_ids=step, past_key_values=first.past_key_values).logits, expected)


def test_configurations_for_another_model_are_refused(case):
    for card in (ModelCard(type="llava", layers=5), ModelCard(type="qwen2_vl", layers=4)):
        config = PruningConfig(selector="fastv", keep=(1.0,) * card.layers, model=card)
        with pytest.raises(ConfigError, match=f"is for {card.type} with {card.layers} decoder layers"):
            prune(case.net, config).__enter__()


def test_a_checkpoint_of_a_refused_architecture_says_why(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mllama"}')
    with pytest.raises(ModelError, match=r"cross-attention.*supported types: llava"):
        load_checkpoint(str(tmp_path))


def test_a_cache_of_the_caller_is_filled(net, case):
    cache = DynamicCache()
    net(**case.inputs, past_key_values=cache, use_cache=True)
    assert len({layer.keys.shape[-2] for layer in cache.layers}) == 3
