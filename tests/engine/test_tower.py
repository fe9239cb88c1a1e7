"""Signals of the vision tower against full attention maps of the stock tower, for every family that gives them.

Which patches become which token is asked of the stock model itself: those that the token's features depend on.
"""

import inspect
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PixtralVisionConfig

from vispco import ModelCard, PruningConfig
from vispco.engine import Replay, observed_attention, prune
from vispco.engine.families import REGISTRY as FAMILIES
from vispco.engine.families import describe
from vispco.engine.hooks import Hook
from vispco.engine.patches import received_row, there
from vispco.engine.tower import TOWER, Watch
from vispco.errors import ModelError
from vispco.selectors import REGISTRY, Scorer, make_selector
from vispco.testing import MODELS, RAGGED, SELECTORS, Sample, SelectorCase, matrix
from vispco.testing.conformance import SINGLE
from vispco.testing.models.base import IMAGE, TEXT

TOWERS = [name for name, tiny in MODELS.items() if tiny.tower]
PATHS = {"video_llava": "image_tower", "idefics3": "vision_model", "smolvlm": "vision_model"}
LAYERS = 3
"""Of the towers here, so that the first layer, the one that is projected and the last one differ."""

WIDTH = TEXT["hidden_size"]


class Spy(Scorer):
    """Keeps what it was shown."""

    needs = TOWER
    seen: ClassVar[list] = []

    def score(self, inputs):
        self.seen.append(inputs)
        return inputs.tower_row


class GridSpy(Spy):
    needs = frozenset({"grid", "crops"})

    def score(self, inputs):
        self.seen.append(inputs)
        return inputs.grid.sum(dim=-1).float()


@pytest.fixture
def spy(monkeypatch):
    monkeypatch.setitem(REGISTRY, "spy", Spy)
    monkeypatch.setattr(Spy, "seen", Spy.seen)
    Spy.seen.clear()
    return Spy.seen


@cache
def deep(name, feature_layer=-2):
    """The tiny model with a deeper tower, whose last layer is not the one that is projected where that may be set."""
    tiny = MODELS[name]
    stock = tiny.make()
    config = stock.config
    config.vision_config.num_hidden_layers = LAYERS
    if name == "internvl":
        config.vision_config.use_qk_norm = True
    if hasattr(config, "vision_feature_layer"):
        config.vision_feature_layer = list(feature_layer) if isinstance(feature_layer, tuple) else feature_layer
    return replace(tiny, make=lambda: type(stock)(config)).build()


def feature_layer(model):
    """Index of the layer that is projected."""
    return LAYERS - 1 if getattr(model.config, "vision_feature_layer", -1) == -1 else LAYERS - 2


def config_of(model, selector="spy", keep=None):
    layers = len(describe(model).layers)
    card = ModelCard(type=model.config.model_type, layers=layers)
    return PruningConfig(selector=selector, keep=keep or (1.0, 1.0, *(0.5,) * (layers - 2)), model=card)


def shown(model, inputs, seen):
    with prune(model, config_of(model)):
        model(**inputs)
    return seen[-1]


def stock_tower(model, name, inputs):
    """Which patches each token depends on, bool (tokens, patches); maps, keys and outputs of the tower's layers."""
    base = model.base_model
    tower = getattr(base, PATHS.get(name, "vision_tower"))
    layers = next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
    attention = [getattr(layer, "self_attn", None) or layer.attention for layer in layers]
    found = {"calls": [], "keys": [None] * LAYERS}
    layer = feature_layer(model)

    def output(module, args, result):
        found["patches"] = result[0] if isinstance(result, tuple) else result

    def call(module, args, kwargs):
        found["calls"].append((args, kwargs))

    def keep_keys(index):
        def hook(module, args, result):
            found["keys"][index] = result

        return hook

    hooks = [tower.register_forward_pre_hook(call, with_kwargs=True), layers[layer].register_forward_hook(output)]
    for index, module in enumerate(attention):
        last = getattr(module, "k_norm", None) or module.k_proj
        hooks.append(last.register_forward_hook(keep_keys(index)))
    known = inspect.signature(base.get_image_features).parameters
    given = {key: value for key, value in inputs.items() if key in known}
    [pixels] = [key for key in given if key.startswith("pixel_values")]
    with torch.enable_grad():
        given[pixels] = given[pixels].clone().requires_grad_()
        pooled = base.get_image_features(**given, return_dict=True).pooler_output
        features = torch.cat([part.reshape(-1, WIDTH) for part in pooled])
        mixed = features @ torch.linspace(-1, 2, WIDTH)
        patches = found["patches"]
        rows = [torch.autograd.grad(value, patches, retain_graph=True, allow_unused=True)[0] for value in mixed]
    depends = torch.stack([torch.zeros(patches.shape[:2]) if row is None else row.abs().sum(-1) for row in rows])
    [(args, kwargs)] = found["calls"]
    backend, tower.config._attn_implementation = tower.config._attn_implementation, "eager"
    kwargs = {**kwargs, "output_attentions": True, "output_hidden_states": True}
    maps = tower(*(part.detach() for part in args), **kwargs)
    tower.config._attn_implementation = backend
    for hook in hooks:
        hook.remove()
    heads = attention[layer].num_heads
    keys = found["keys"][layer].detach().unflatten(-1, (heads, -1))
    return depends.flatten(1) > 0, maps.attentions, keys, maps.hidden_states[layer + 1].detach()


def mean_of(depends, values):
    """The slow way: mean over the patches of every token, zeros for a token that has none."""
    values = values.flatten(0, 1)
    return torch.stack([values[mine].mean(dim=0) if mine.any() else torch.zeros_like(values[0]) for mine in depends])


def rows_of(model, name, maps, mask):
    """Attention of the class token, or received on average over the patches that are no padding."""
    maps = maps.detach().mean(dim=1)
    if name in ("llava", "llava_next", "video_llava", "internvl"):
        return maps[:, 0]
    if mask is None:
        return maps.mean(dim=1)
    return torch.stack([rows[real].mean(dim=0) for rows, real in zip(maps, mask, strict=True)])


def check(model, name, inputs, ours, mask=None):
    visual = describe(model).visual_mask(inputs["input_ids"])
    depends, maps, keys, hidden = stock_tower(model, name, inputs)
    assert len(depends) == int(visual.sum())
    expected = {
        "tower_row": mean_of(depends, rows_of(model, name, maps[feature_layer(model)], mask)),
        "tower_first_row": mean_of(depends, rows_of(model, name, maps[0], mask)),
        "tower_keys": mean_of(depends, keys),
        "tower_hidden": mean_of(depends, hidden),
    }
    start = 0
    for row, number in enumerate(visual.sum(dim=1).tolist()):
        for signal, value in expected.items():
            mine = getattr(ours, signal)[row, :number]
            torch.testing.assert_close(mine, value[start : start + number], atol=1e-5, rtol=1e-4, msg=signal)
            assert not getattr(ours, signal)[row, number:].any()
        start += number
    return depends


@pytest.mark.parametrize("samples", [SINGLE, RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("name", TOWERS)
def test_signals_are_those_of_the_stock_tower(name, samples, spy):
    model, inputs = deep(name), MODELS[name].inputs(samples)
    depends = check(model, name, inputs, shown(model, inputs, spy))
    each = {"gemma3": 4, "internvl": 4, "idefics3": 16, "smolvlm": 16}.get(name, 1)
    newlines = depends.sum(dim=1) == 0
    assert depends.sum(dim=1)[~newlines].unique().tolist() == [4 if name in ("idefics3", "smolvlm") else each]
    assert bool(newlines.any()) == (name in ("llava_next", "llava_onevision"))


def test_families_with_a_tower():
    assert {kind for kind, adapter in FAMILIES.items() if adapter.tower} == {
        "llava", "llava_next", "llava_onevision", "video_llava", "gemma3", "paligemma", "internvl", "idefics3",
        "smolvlm",
    }  # fmt: skip


@pytest.mark.parametrize("name", TOWERS)
def test_replay_and_prune_see_the_same(name, spy):
    model, inputs = deep(name), MODELS[name].inputs(RAGGED)
    ours = shown(model, inputs, spy)
    with observed_attention(describe(model)):
        pictured = Replay(model, make_selector("spy")).capture(inputs).pictured
    assert set(pictured) == TOWER
    for signal, value in pictured.items():
        assert torch.equal(value, getattr(ours, signal)), signal


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_padding_of_a_picture_neither_gives_nor_gets_attention(name, backend, spy):
    model, inputs = deep(name), MODELS[name].inputs(RAGGED)
    mask = inputs["pixel_attention_mask"]
    mask[0, 0, 20:] = 0
    mask[1, 0, :, 8:] = 0
    model.base_model.vision_model.config._attn_implementation = backend
    ours = shown(model, inputs, spy)
    model.base_model.vision_model.config._attn_implementation = "sdpa"
    real = mask[:, :, ::4, ::4].flatten(2).flatten(0, 1).bool()
    real = real[inputs["pixel_values"].flatten(0, 1).flatten(1).any(dim=1)]
    check(model, name, inputs, ours, real)
    # Rows of 4 tokens, which are 8 pixels high: 20 pixels are 2 and a half of them.
    assert not ours.tower_row[0, 12:16].any()
    assert ours.tower_row[0, 8:12].all()


def test_masks_of_all_backends_mean_the_same():
    key = torch.zeros(2, 1, 3, 4)
    expected = [[True, True, False], [True, False, False]]
    flat = torch.tensor(expected)
    square = flat[:, None, None].expand(2, 1, 3, 3)
    added = torch.zeros(square.shape).masked_fill(~square, torch.finfo(torch.float32).min)
    for mask in (flat, flat.long(), square, added):
        assert there(mask, key).tolist() == expected
    assert there(None, key).tolist() == [[True] * 3] * 2


def test_many_rows_come_in_parts(monkeypatch):
    from vispco.engine import patches

    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, 7, 4, generator=generator), torch.randn(2, 3, 7, 4, generator=generator)
    module, seen = nn.Module(), torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    module.scale = 0.5
    whole = received_row(query, key, module, seen)
    monkeypatch.setattr(patches, "CHUNK", 2)
    torch.testing.assert_close(received_row(query, key, module, seen), whole)
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(2))


def test_the_last_of_several_feature_layers_counts(spy):
    model, inputs = deep("llava", (1, -2)), MODELS["llava"].inputs(SINGLE)
    maps = stock_tower(model, "llava", inputs)[1]
    torch.testing.assert_close(shown(model, inputs, spy).tower_row, maps[1].mean(dim=1)[:, 0, 1:].detach())


def test_embeddings_have_no_attention(spy):
    with pytest.raises(ModelError, match="vision_feature_layer = 0 is no layer's output"):
        shown(deep("llava", 0), MODELS["llava"].inputs(SINGLE), spy)


def test_tokens_may_go_before_the_first_layer(spy):
    model, inputs = deep("llava"), MODELS["llava"].inputs(SINGLE)
    with prune(model, config_of(model, keep=(0.5,) * 4)) as pruned:
        model(**inputs)
    best = spy[-1].tower_row[0].topk(8).indices.sort().values
    assert pruned.kept[0][0].nonzero()[:, 0].tolist() == best.tolist()


@pytest.mark.parametrize("cached", [True, False])
def test_generating_keeps_what_the_forward_keeps(cached, spy):
    model, inputs = deep("llava_next"), MODELS["llava_next"].inputs(RAGGED)
    with prune(model, config_of(model)) as pruned:
        model(**inputs)
        kept = pruned.kept
        model.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=cached)
        assert all(map(torch.equal, pruned.kept, kept))
    assert len(spy) == 2, "a decoding step looks at no image"


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_beams_share_the_signals_of_their_sample(name, spy):
    """Releases differ in whether images are repeated before the tower or after it."""
    model, inputs = deep(name), MODELS[name].inputs((Sample(2, 1, 5, seed=1), Sample(3, 0, 4, seed=3), *SINGLE))
    with prune(model, config_of(model)):
        model(**inputs)
        model.generate(**inputs, max_new_tokens=2, num_beams=3, do_sample=False)
    once, thrice = spy
    for signal in TOWER:
        torch.testing.assert_close(getattr(thrice, signal), getattr(once, signal).repeat_interleave(3, dim=0))


def test_what_was_encoded_before_is_forgotten(spy):
    """Neither a forward that failed nor features without a forward are taken for those of a later one."""
    model, inputs, other = deep("llava"), MODELS["llava"].inputs(SINGLE), MODELS["llava"].inputs(RAGGED)
    with prune(model, config_of(model)):
        with pytest.raises((ValueError, RuntimeError)):
            model(**{**inputs, "pixel_values": other["pixel_values"]})
        model.base_model.get_image_features(other["pixel_values"])
        model(**inputs)
        model(**inputs)
        del inputs["pixel_values"]
        with pytest.raises(ModelError, match="did not run"):
            model(**inputs)
    assert torch.equal(spy[0].tower_row, spy[1].tower_row)


def test_no_trace_is_left_and_copies_are_stock(spy):
    model, inputs = MODELS["llava"].build(), MODELS["llava"].inputs(SINGLE)
    before = set(vars(model.base_model))
    with prune(model, config_of(model)):
        twin = deepcopy(model)
        model(**inputs)
        twin(**inputs)
    assert len(spy) == 1
    assert set(vars(model.base_model)) == before
    for net in (model, twin):
        assert net.base_model.get_image_features.__self__ is net.base_model
    left = [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    assert not any(isinstance(hook, Hook) for hook in left)


def test_text_alone_needs_no_tower(spy):
    model = deep("gemma3")
    with prune(model, config_of(model)):
        logits = model(**MODELS["gemma3"].inputs([Sample(3, 0, 4, seed=3)])).logits
    assert logits.shape[1] == 7


def test_training_does_not_go_through_signals(spy):
    model, inputs = MODELS["llava"].build().requires_grad_(True), MODELS["llava"].inputs(SINGLE)
    ours = shown(model, inputs, spy)
    assert not any(getattr(ours, signal).requires_grad for signal in TOWER)


# What is refused.


def refused(model, inputs, match, selector="spy"):
    with pytest.raises(ModelError, match=match) as error, prune(model, config_of(model, selector)):
        model(**inputs)
    assert "\n" not in str(error.value)


def test_a_tower_that_is_not_known_is_refused(spy):
    refused(MODELS["qwen2_vl"].build(), MODELS["qwen2_vl"].inputs(SINGLE), "is not known of qwen2_vl: its vision tower")


def test_another_tower_in_a_known_family_is_refused(spy):
    vision = PixtralVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = LlamaConfig(**TEXT)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE))
    refused(
        model, MODELS["llava"].inputs(SINGLE), r"not known of llava: its vision tower \(pixtral\) gives no attention"
    )


def test_no_pixels_are_refused(spy):
    inputs = MODELS["llava"].inputs(SINGLE)
    del inputs["pixel_values"]
    refused(deep("llava"), inputs, "the vision tower did not run, .* pass pixels")


def test_another_number_of_patches_is_refused(spy):
    family = describe(deep("llava"))
    watch = Watch(family, {"tower_row"})
    watch._note("tower_row", torch.zeros(2, 17, 1))
    with pytest.raises(ModelError, match="the vision tower gave 32 tokens for 16 in the prompt"):
        watch.signals({}, torch.ones(1, 16, dtype=torch.bool))


@pytest.mark.parametrize("name", ["llava_onevision", "video_llava"])
def test_videos_are_refused(name, spy):
    inputs = MODELS[name].inputs([Sample(2, 0, 5, seed=5, video=True), *SINGLE])
    refused(deep(name), inputs, f"{name} does not tell places and patches of the visual tokens of a video")


def test_another_layer_in_the_call_is_refused(spy):
    inputs = MODELS["llava"].inputs(SINGLE)
    refused(deep("llava"), {**inputs, "vision_feature_layer": -1}, "vision_feature_layer = -1 in the call")
    model = deep("llava")
    with prune(model, config_of(model)):
        model(**inputs, vision_feature_layer=-2)


def test_what_the_matrix_leaves_out_is_what_is_refused(monkeypatch):
    """Every pair of family and selector that it skips is refused by the engine, and no other one."""
    for name, selector in (("spy", Spy), ("grid_spy", GridSpy)):
        monkeypatch.setitem(REGISTRY, name, selector)
        monkeypatch.setitem(SELECTORS, name, SelectorCase(name))
    cells = {(case.model.name, case.selector.selector) for case in matrix()}
    skipped = {(name, case.selector) for name in MODELS for case in SELECTORS.values()} - cells
    assert {name for name, selector in skipped if selector == "spy"} == {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}
    refusals = set()
    for name, tiny in MODELS.items():
        model = tiny.build()
        for case in SELECTORS.values():
            config = config_of(model, case.selector).model_copy(update={"selector_params": case.params})
            try:
                with prune(model, config):
                    model(**tiny.inputs(RAGGED))
            except ModelError:
                refusals.add((name, case.selector))
    assert refusals == skipped
