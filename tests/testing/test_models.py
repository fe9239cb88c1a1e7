"""The tiny models: stock, deterministic, fed as their processors would, and sensitive enough to fail a wrong engine."""

import dataclasses
import functools
import inspect

import pytest
import torch

from vispco.errors import InputError, ModelError
from vispco.testing.models import MODELS, RAGGED, Sample
from vispco.testing.models.base import PAD, join

ONE = Sample(2, 1, 5, seed=5)
TWO = Sample(2, 2, 20, seed=6)
MIXED = (*RAGGED, Sample(2, 0, 6, seed=7, video=True), Sample(4, 0, 3, seed=8, video=True))
"""Images and videos in one batch."""

VARIANTS = {
    "llava", "llava_next", "llava_onevision", "video_llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl",
    "paligemma", "paligemma2", "idefics3", "smolvlm",
}  # fmt: skip

every = pytest.mark.parametrize("tiny", MODELS.values(), ids=MODELS)
videos = pytest.mark.parametrize("tiny", [tiny for tiny in MODELS.values() if tiny.videos], ids=lambda tiny: tiny.name)


@functools.cache
def built(tiny):
    return tiny.build()


def visual(model, ids):
    config = model.config
    return (ids == config.image_token_id) | (ids == getattr(config, "video_token_id", config.image_token_id))


def runs(found):
    """Lengths of the blocks of True."""
    return [len(block) for block in "".join("x" if here else " " for here in found).split()]


def batches(tiny):
    return MIXED if tiny.videos else RAGGED


def alone(tiny, sample):
    """Logits of a sample without a batch around it."""
    return built(tiny)(**tiny.inputs([sample])).logits[0]


def test_every_variant_is_there():
    assert set(MODELS) == VARIANTS
    assert all(name == tiny.name for name, tiny in MODELS.items())
    assert {tiny.name for tiny in MODELS.values() if tiny.videos} == {
        "llava_onevision", "video_llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"
    }  # fmt: skip


@every
def test_model_is_stock_and_ready(tiny):
    model = built(tiny)
    text = model.config.get_text_config()
    assert type(model).__module__.startswith("transformers.models.")
    assert model.config.model_type == tiny.model_type
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert (text.hidden_size, text.num_attention_heads, text.num_key_value_heads) == (48, 4, 2)
    assert len(model.get_decoder().layers) == (6 if tiny.name == "gemma3" else 4)
    assert model.generation_config.eos_token_id is None
    assert model.generation_config.pad_token_id == PAD


@every
def test_build_is_deterministic_and_leaves_the_global_generator_alone(tiny):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again, other = tiny.build().state_dict(), tiny.build(seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    weights = built(tiny).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert all(not torch.equal(value, other[name]) for name, value in weights.items() if value.dim() > 1)


@every
@pytest.mark.parametrize("padding", ["left", "right"])
def test_batch_equals_singles(tiny, padding):
    samples = batches(tiny)
    inputs = tiny.inputs(samples, padding)
    logits = built(tiny)(**inputs).logits
    for row, sample in enumerate(samples):
        real = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(logits[row, real], alone(tiny, sample), atol=1e-4, rtol=0)


@every
def test_row_of_a_batch_is_the_sample(tiny):
    batch, single = tiny.inputs([ONE, TWO]), tiny.inputs([ONE])
    real = batch["attention_mask"][0].bool()
    assert batch.keys() == single.keys()
    assert int(real.sum()) < len(real)
    for name, value in single.items():
        ours = batch[name][:, real] if value.shape == single["input_ids"].shape else batch[name]
        assert torch.equal(ours[tuple(map(slice, value.shape))], value), name


@every
def test_backends_agree(tiny):
    model, inputs = tiny.build(), tiny.inputs(RAGGED)
    real = inputs["attention_mask"].bool()
    assert model.get_decoder().config._attn_implementation == tiny.backends[0]
    stock = built(tiny)(**inputs).logits
    for backend in tiny.backends:
        model.set_attn_implementation({"text_config": backend})
        assert model.get_decoder().config._attn_implementation == backend
        torch.testing.assert_close(model(**inputs).logits[real], stock[real], atol=1e-4, rtol=0)


@every
def test_generate_sees_what_forward_sees(tiny):
    inputs = tiny.inputs(batches(tiny))
    length = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    output = built(tiny).generate(**inputs, **options)
    assert output.sequences.shape == (len(batches(tiny)), length + 3)
    torch.testing.assert_close(output.logits[0], built(tiny)(**inputs).logits[:, -1], atol=1e-4, rtol=0)


@every
def test_beam_search_runs(tiny):
    """It repeats every input along the batch, pixels of ragged samples included."""
    inputs = tiny.inputs(RAGGED)
    output = built(tiny).generate(**inputs, max_new_tokens=3, num_beams=2)
    assert output.shape == (4, inputs["input_ids"].shape[1] + 3)


@every
def test_text_alone_runs(tiny):
    inputs = tiny.inputs([Sample(3, 0, 4, seed=3), Sample(1, 0, 2, seed=4)])
    assert not any("pixel" in name for name in inputs)
    assert built(tiny)(**inputs).logits.shape[:2] == (2, 7)
    assert built(tiny).generate(**inputs, max_new_tokens=3, do_sample=False).shape == (2, 10)


@every
def test_bfloat16_runs(tiny):
    model = tiny.build(torch.bfloat16)
    logits = model(**tiny.inputs([TWO], dtype=torch.bfloat16)).logits[0]
    assert model.dtype == logits.dtype == torch.bfloat16
    error = (logits.float() - alone(tiny, TWO)).abs().mean() / alone(tiny, TWO).abs().mean()
    assert error < 0.1


@every
@pytest.mark.parametrize("samples", [[ONE], [TWO], RAGGED], ids=["one", "two", "ragged"])
def test_visual_tokens_are_as_many_as_features(tiny, samples):
    """Counted here, because not every release of transformers refuses a prompt with too few of them."""
    inputs = tiny.inputs(samples)
    found = int(visual(built(tiny), inputs["input_ids"]).sum())
    encode = built(tiny).base_model.get_image_features
    known = inspect.signature(encode).parameters
    features = encode(**{name: value for name, value in inputs.items() if name in known}, return_dict=True)
    rows = sum(feature.numel() for feature in features.pooler_output) / 48
    images = sum(sample.images for sample in samples)
    assert found == rows
    assert 12 * images <= found <= 60 * images


@every
def test_words_are_never_visual(tiny):
    inputs = tiny.inputs([Sample(200, 0, 200, seed=9)])
    assert not visual(built(tiny), inputs["input_ids"]).any()
    assert not (inputs["input_ids"] == PAD).any()


@every
def test_one_text_token_stands_between_images(tiny):
    """So that the images of a sample cannot be taken for one; some processors put more there, and around tiles."""
    found = visual(built(tiny), tiny.inputs([TWO])["input_ids"])[0].tolist()
    blocks, between = 2, 1
    if "qwen" in tiny.name:
        between = 1 + 2 * 2
    if tiny.name in ("idefics3", "smolvlm"):
        blocks, between = 4, 1 + 4 * 2 + 2
    assert len(runs(found)) == blocks
    assert found.count(False) == TWO.before + between + TWO.after


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_images_of_a_sample_differ_in_size(name):
    lengths = runs(visual(built(MODELS[name]), MODELS[name].inputs([RAGGED[1]])["input_ids"])[0].tolist())
    assert len(set(lengths)) == len(lengths) == 2


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_sizes_depend_on_the_seed(name):
    tiny = MODELS[name]
    lengths = {tiny.inputs([dataclasses.replace(ONE, seed=seed)])["input_ids"].shape[1] for seed in range(20)}
    assert len(lengths) >= 3


def masked(model, inputs, hide):
    """Logits under a plain causal mask in which the keys ``hide`` are left out in every layer."""
    width = hide.shape[1]
    seen = torch.ones(width, width, dtype=torch.bool).tril() & (~hide | torch.eye(width, dtype=torch.bool))
    mask = torch.zeros(1, 1, width, width).masked_fill(~seen, torch.finfo(torch.float32).min)

    def replace(module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask}

    hooks = [layer.register_forward_pre_hook(replace, with_kwargs=True) for layer in model.get_decoder().layers]
    try:
        return model(**inputs).logits
    finally:
        for hook in hooks:
            hook.remove()


@every
def test_visual_tokens_matter(tiny):
    """What an engine gets wrong about them has to be seen in the logits."""
    inputs = tiny.inputs([TWO])
    ids = inputs["input_ids"]
    found = visual(built(tiny), ids)
    whole = masked(built(tiny), inputs, torch.zeros_like(found))
    few = found.clone()
    few[0, found[0].nonzero()[3:, 0]] = False
    for hide in (found, few):
        assert (masked(built(tiny), inputs, hide) - whole)[0, -1].abs().max() > 0.1


@every
def test_attention_is_far_from_uniform(tiny):
    model = tiny.build()
    model.set_attn_implementation({"text_config": "eager"})
    for weights in model(**tiny.inputs([TWO]), output_attentions=True).attentions:
        row = weights[0, :, -1]
        assert (row.amax(dim=-1) * (row > 0).sum(dim=-1)).mean() > 1.5  # uniform attention: 1


def test_gemma3_exercises_both_kinds_of_layers():
    text = built(MODELS["gemma3"]).config.get_text_config()
    assert text.layer_types.index("full_attention") == 2
    assert text.layer_types.count("full_attention") == 2
    assert text.sliding_window < int(visual(built(MODELS["gemma3"]), MODELS["gemma3"].inputs([ONE])["input_ids"]).sum())


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [("llava", False, False), ("gemma3", True, False), ("paligemma", True, True), ("paligemma2", True, True)],
)
def test_what_the_first_visual_token_sees(name, image, text):
    """Whether it sees the last token of its image, and the text behind it."""
    tiny, inputs = MODELS[name], MODELS[name].inputs([ONE])
    first, last = ONE.before, ONE.before + 15

    def disturbed(place):
        def add(module, args, kwargs):
            embeds = kwargs["inputs_embeds"].clone()
            embeds[:, place] += 5 * torch.randn(48, generator=torch.Generator().manual_seed(0))
            return args, {**kwargs, "inputs_embeds": embeds}

        with built(tiny).get_decoder().register_forward_pre_hook(add, with_kwargs=True):
            return built(tiny)(**inputs).logits[0, first]

    stock = built(tiny)(**inputs).logits[0, first]
    assert bool((disturbed(last) - stock).abs().max() > 0.01) == image
    assert bool((disturbed(-1) - stock).abs().max() > 0.01) == text


@videos
def test_video_stands_where_images_would(tiny):
    inputs = tiny.inputs([Sample(2, 3, 5, seed=1, video=True)])
    assert not (inputs["input_ids"] == built(tiny).config.image_token_id).any()
    assert (inputs["input_ids"] == built(tiny).config.video_token_id).any()
    assert built(tiny)(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]
    inputs["input_ids"][inputs["input_ids"] == built(tiny).config.video_token_id] = 11
    with pytest.raises(ValueError, match="do not match"):
        built(tiny)(**inputs)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_a_sample_without_images_has_a_row_of_pixels(name):
    inputs = MODELS[name].inputs(RAGGED)
    assert inputs["pixel_values"].shape == (4, 4, 3, 32, 32)
    assert not inputs["pixel_values"][2].any()
    assert inputs["pixel_attention_mask"].sum(dim=(1, 2, 3)).tolist() == [1 * 1024, 4 * 1024, 0, 3 * 1024]


def test_join_pads_at_the_end():
    joined = join([torch.ones(1, 2, 1), torch.full((2, 1, 3), 2)])
    expected = [[[1, 0, 0], [1, 0, 0]], [[2, 2, 2], [0, 0, 0]], [[2, 2, 2], [0, 0, 0]]]
    assert joined.tolist() == expected


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="'up' is not a side"):
        MODELS["llava"].inputs(RAGGED, padding="up")
    with pytest.raises(ModelError, match="gemma3 takes no videos"):
        MODELS["gemma3"].inputs([Sample(2, 0, 5, seed=1, video=True)])
    for counts in [(-1, 1, 5), (2, -1, 5), (0, 1, 0)]:
        with pytest.raises(InputError, match="not a prompt"):
            Sample(*counts, seed=1)
