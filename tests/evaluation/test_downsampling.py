"""Smaller pictures: as many tokens as asked for, the stock model's own answers on them, and no trace afterwards."""

import copy
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor, Qwen2VLImageProcessor, SiglipImageProcessor

from vispco.cost import count_flops
from vispco.data import load_samples, make_scorer
from vispco.engine import load_checkpoint
from vispco.errors import ConfigError, DataError, ModelError
from vispco.evaluation import Evaluator, Ledger, Provenance, generate_answers, prepare
from vispco.evaluation.downsampling import downsample, measure_downsampled, smaller_images
from vispco.frontier.points import MERGE_KEYS
from vispco.report.series import is_control
from vispco.testing import MODELS
from vispco.testing.models.base import IMAGE

SIDES = (10, 7, 5)


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(scope="module")
def samples():
    return load_samples("shapes", "test", 48)


@pytest.fixture(scope="module")
def evaluator(micro, samples):
    return Evaluator(*micro, samples, batch_size=20)


@pytest.fixture(scope="module")
def found(evaluator):
    return {side: downsample(evaluator, side / 10) for side in SIDES}


def prompts(processor, samples):
    return prepare(processor, samples).inputs


@pytest.mark.parametrize("side", SIDES)
def test_a_picture_of_fewer_patches_has_as_many_tokens(micro, samples, side):
    model, processor = micro
    full = prompts(processor, samples[:4])
    with smaller_images(model, processor, side / 10) as smaller:
        small = prompts(smaller, samples[:4])
        assert small["pixel_values"].shape == (4, 3, 8 * side, 8 * side)
        assert model.get_image_features(small["pixel_values"]).pooler_output[0].shape == (side * side, 96)
    assert (small["input_ids"] == 4).sum(dim=1).tolist() == [side * side] * 4
    for one, other in zip(full["input_ids"], small["input_ids"], strict=True):
        assert one[one != 4].tolist() == other[other != 4].tolist(), "the text is another one"


def test_sides_round_half_up_and_stay_above_zero(micro, samples):
    for factor, side in ((0.05, 1), (0.01, 1), (0.15, 2), (0.45, 5), (0.95, 10), (0.649, 6)):
        with smaller_images(*micro, factor) as smaller:
            assert prompts(smaller, samples[:1])["pixel_values"].shape[-1] == 8 * side, factor


def test_a_picture_is_the_whole_scene_made_smaller(micro, samples):
    """Pixels are those of the scene resized by PIL, not a part cut out of it."""
    with smaller_images(*micro, 0.5) as smaller:
        pixels = prompts(smaller, samples[:1])["pixel_values"][0]
    scene = np.asarray(samples[0].image.resize((40, 40), Image.Resampling.BICUBIC), dtype=float) / 255
    np.testing.assert_allclose(pixels.numpy(), (scene.transpose(2, 0, 1) - 0.5) / 0.25, atol=0.02)


def test_the_full_side_is_the_stock_model_bit_by_bit(micro, samples, found):
    model, processor = micro
    stock = model(**prompts(processor, samples[:8])).logits
    with smaller_images(model, processor, 1.0) as smaller:
        assert torch.equal(model(**prompts(smaller, samples[:8])).logits, stock)
    with smaller_images(model, processor, 0.5):
        assert torch.equal(model(**prompts(processor, samples[:8])).logits, stock), "full-size pictures inside a block"
    assert found[10].costs["flops"] == found[10].share == 1.0
    assert np.abs(found[10].quality.kl).max() < 1e-6


def weight(distance):
    """Cubic convolution with a = -0.75."""
    d = abs(distance)
    if d <= 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def interpolated(table, side):
    """A square table of positions at ``side`` x ``side`` places: cubic convolution, borders repeated."""
    whole = math.isqrt(len(table))
    result = np.zeros((side, side, table.shape[1]))
    for row in range(side):
        for column in range(side):
            y, x = ((place + 0.5) * whole / side - 0.5 for place in (row, column))
            for i in range(math.floor(y) - 1, math.floor(y) + 3):
                for j in range(math.floor(x) - 1, math.floor(x) + 3):
                    known = table[min(max(i, 0), whole - 1) * whole + min(max(j, 0), whole - 1)]
                    result[row, column] += weight(y - i) * weight(x - j) * known
    return result.reshape(side * side, -1)


@pytest.mark.parametrize("side", [7, 5])
def test_positions_are_interpolated_bicubically(micro, samples, side):
    model, processor = micro
    embeddings = next(module for module in model.modules() if hasattr(module, "patch_embedding"))
    seen = []
    hook = embeddings.register_forward_hook(lambda module, args, output: seen.append(output))
    with smaller_images(model, processor, side / 10) as smaller:
        inputs = prompts(smaller, samples[:2])
        model(**inputs)
    hook.remove()
    patches = embeddings.patch_embedding(inputs["pixel_values"]).flatten(2).transpose(1, 2)
    table = embeddings.position_embedding.weight.double().numpy()
    positions = (seen[0][:, 1:] - patches).double().numpy()
    np.testing.assert_allclose(positions[0], interpolated(table[1:], side), atol=1e-4)
    np.testing.assert_allclose(positions[1], positions[0], atol=1e-4)


@pytest.mark.parametrize("side", SIDES)
def test_the_cost_is_that_of_as_many_visual_tokens(micro, evaluator, found, side):
    config = micro[0].config
    text = [int(tokens) for batch in evaluator.batches for tokens in batch.text_tokens]
    spent = [count_flops(config, tokens, side * side, (1.0,) * 8).total for tokens in text]
    whole = [count_flops(config, tokens, 100, (1.0,) * 8).total for tokens in text]
    assert len(set(text)) > 1
    assert found[side].costs["flops"] == pytest.approx(sum(spent) / sum(whole), rel=1e-12)
    assert found[side].share == side * side / 100


def test_the_score_falls_with_the_side(found):
    scores = [found[side].quality.score.mean() for side in (10, 7, 5)]
    assert scores[0] > 0.9
    assert scores[0] - scores[1] > 0.2
    assert scores[1] > scores[2] > 0
    assert found[7].quality.kl.mean() > 1


def test_quality_is_that_of_the_stock_model_on_smaller_pictures(micro, samples, found):
    """Scores are those of `generate`; KL is that of two stock forwards, sample by sample."""
    model, processor = micro
    stock = model(**prompts(processor, samples[:20])).logits[:, -2].double().log_softmax(-1)
    with smaller_images(model, processor, 0.7) as smaller:
        logits = model(**prompts(smaller, samples[:20])).logits[:, -2].double().log_softmax(-1)
        said = generate_answers(model, smaller, samples, batch_size=16, max_new_tokens=4)
    expected = (stock.exp() * (stock - logits)).sum(dim=-1).numpy()
    np.testing.assert_allclose(found[7].quality.kl[:20], expected, atol=1e-3, rtol=1e-3)
    right = [make_scorer("exact_match").score(text, sample) for text, sample in zip(said, samples, strict=True)]
    np.testing.assert_array_equal(found[7].quality.score, right)
    assert 0 < sum(right) < len(right)


def test_a_batch_cut_short_may_lose_its_longest_answer(micro, samples, found):
    long = replace(samples[5], answer="red red red")
    evaluator = Evaluator(*micro, [*samples[:5], long], batch_size=4)
    part = evaluator.head(5, Ledger())
    assert part.batches[1].targets.shape == (1, 4)
    quality = downsample(part, 0.7).quality
    np.testing.assert_allclose(quality.kl, found[7].quality.kl[:5], atol=1e-5)
    np.testing.assert_array_equal(quality.score, found[7].quality.score[:5])


def test_the_ledger_is_charged_with_what_ran(micro, samples):
    ledger, done = Ledger(), []
    evaluator = Evaluator(*micro, samples[:10], ledger=ledger, batch_size=4)
    ledger.forwards = 0.0
    cost = downsample(evaluator, 0.5, advance=done.append).costs["flops"]
    assert ledger.forwards == pytest.approx(10 * cost)
    assert done == [4, 4, 2]


def test_points_stand_beside_others(micro, evaluator, found):
    provenance = Provenance.of(*micro, seed=3)
    [(point, quality), (small, _)] = measure_downsampled(evaluator, [0.7, 0.5], provenance, split="test")
    for field in set(MERGE_KEYS) - {"split"}:
        assert getattr(point, field) == getattr(small, field) == getattr(provenance, field)
    assert point.split == small.split == "test"
    assert point.name == f"downsampled b={found[7].costs['flops']:.3f}"
    assert is_control(point)
    assert small.name != point.name
    assert point.keep == (0.49,) * 8
    assert point.costs == found[7].costs
    assert point.quality == {"score": found[7].quality.score.mean(), "kl": found[7].quality.kl.mean()}
    assert list(point.slices) == sorted({sample.slice for sample in evaluator.samples})
    reading = [sample.slice == "reading" for sample in evaluator.samples]
    assert point.slices["reading"] == quality.score[reading].mean()
    assert (point.samples, point.seed) == (48, 3)


def test_nothing_is_left(micro, samples):
    model, processor = micro
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    hooks = {name: dict(module._forward_pre_hooks) for name, module in model.named_modules()}
    said = processor.image_processor.to_dict()
    stock = model(**prompts(processor, samples[:4])).logits
    with pytest.raises(KeyError), smaller_images(model, processor, 0.5) as smaller:  # noqa: PT012
        small = prompts(smaller, samples[:4])
        model(**small)
        twin = copy.deepcopy(model)
        raise KeyError
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert {name: dict(module._forward_pre_hooks) for name, module in model.named_modules()} == hooks
    assert processor.image_processor.to_dict() == said
    assert torch.equal(model(**prompts(processor, samples[:4])).logits, stock)
    for one in (model, twin):
        with pytest.raises(ValueError, match="doesn't match model"):
            one(**small)


def test_siglip_with_pixels_beyond_the_last_patch(micro, samples):
    """Pictures of 30 pixels have 3 x 3 patches of 8; smaller ones are 16 x 16, and the full size stays as it is."""
    from transformers import LlamaConfig, LlavaConfig, SiglipVisionConfig

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = SiglipVisionConfig(image_size=30, patch_size=8, vision_use_head=False, **sizes)
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(vocab_size=51, **sizes), image_token_index=4,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    processor = LlavaProcessor(
        SiglipImageProcessor(size={"height": 30, "width": 30}), micro[1].tokenizer, patch_size=8,
        vision_feature_select_strategy="full", chat_template=micro[1].chat_template,
    )  # fmt: skip
    stock = model(**prompts(processor, samples[:2])).logits
    for factor, pixels, tokens in ((1.0, 30, 9), (0.6, 16, 4)):
        with smaller_images(model, processor, factor) as smaller:
            inputs = prompts(smaller, samples[:2])
            logits = model(**inputs).logits
        assert inputs["pixel_values"].shape[-1] == pixels
        assert (inputs["input_ids"] == 4).sum(dim=1).tolist() == [tokens] * 2
        assert torch.equal(logits, stock) == (factor == 1.0)


# --- pictures of any size --------------------------------------------------------------------------------------------

GRIDS = {(48, 32): (4, 6), (300, 100): (4, 13), (20, 24): (3, 2)}
"""Rows and columns of visual tokens at full size, by width and height: 8 pixels each; 3 to 64 tokens."""


class Processor:
    """Qwen's, but for its tokenizer: a question is a list of tokens."""

    def __init__(self, image_processor):
        self.image_processor = image_processor
        self.tokenizer = lambda text, add_special_tokens: {"input_ids": [11] * len(text)}
        self.tokenizer.pad_token_id = 0

    def apply_chat_template(self, turns, add_generation_prompt):
        return turns[0]["content"][1]["text"]

    def __call__(self, text, images, padding, return_tensors):
        pixels = self.image_processor(images, return_tensors=return_tensors)
        rows = [
            [6] + [IMAGE] * (int(grid.prod()) // 4) + [7] + words
            for grid, words in zip(pixels["image_grid_thw"], text, strict=True)
        ]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        return {
            "input_ids": ids,
            "attention_mask": (ids != 0).long(),
            "mm_token_type_ids": (ids == IMAGE).long(),
            **pixels,
        }


@pytest.fixture(scope="module")
def any_resolution():
    try:
        stock = Qwen2VLImageProcessor(
            patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 192, "longest_edge": 4096}
        )
    except ImportError:
        pytest.skip("this release of transformers has the image processor for torchvision only")
    return Processor(stock)


def drawn(size):
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    colors = np.stack([columns * 5, rows * 7, columns + rows], axis=-1)
    return Image.fromarray((colors % 256).astype(np.uint8))


def shown(sizes=GRIDS):
    return [
        SimpleNamespace(index=i, image=drawn(size), question=[12] * (i + 2), answer="ab" if i else "a", slice="all")
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_any_resolution(name, any_resolution):
    """Every picture has half of its own rows and columns, those below the limit of pixels too."""
    model, samples = MODELS[name].build(), shown()
    full = prompts(any_resolution, samples)
    assert (full["image_grid_thw"][:, 1:] // 2).tolist() == [list(grid) for grid in GRIDS.values()]
    with smaller_images(model, any_resolution, 1.0) as smaller:
        same = prompts(smaller, samples)
    assert torch.equal(model(**same).logits, model(**full).logits)
    halves = [[2, 3], [2, 7], [2, 1]]
    with smaller_images(model, any_resolution, 0.5) as smaller:
        small = prompts(smaller, samples)
        assert (small["image_grid_thw"][:, 1:] // 2).tolist() == halves
        assert isinstance(smaller.image_processor, type(any_resolution.image_processor))
        assert repr(smaller.image_processor) == repr(any_resolution.image_processor)
    evaluator = Evaluator(model, any_resolution, samples, batch_size=2)
    half = downsample(evaluator, 0.5)
    text, visual = [4, 5, 6], [6, 14, 2]
    keep = (1.0,) * 4
    spent = sum(count_flops(model.config, t, v, keep).total for t, v in zip(text, visual, strict=True))
    whole = sum(count_flops(model.config, t, v, keep).total for t, v in zip(text, [24, 52, 6], strict=True))
    assert half.costs["flops"] == pytest.approx(spent / whole, rel=1e-12)
    assert half.share == 22 / 82
    ends = [model(**inputs).logits[:, -3:-1].double().log_softmax(-1) for inputs in (full, small)]
    expected = (ends[0].exp() * (ends[0] - ends[1])).sum(dim=-1)
    expected = torch.cat([expected[:1, 0], expected[1:].mean(dim=1)])  # answers of one, two and two tokens
    np.testing.assert_allclose(half.quality.kl, expected.numpy(), rtol=0.02, atol=1e-5)
    assert half.quality.kl.min() > 1e-3


def test_a_smaller_picture_of_any_size_is_the_whole_one(any_resolution):
    """Equal to the stock image processor on the picture resized by PIL to whole tokens."""
    model = MODELS["qwen2_vl"].build()
    picture = drawn((48, 32))
    with smaller_images(model, any_resolution, 0.5) as smaller:
        found = smaller.image_processor([[picture]], return_tensors="pt")["pixel_values"]
    resized = picture.resize((24, 16), Image.Resampling.BICUBIC)
    expected = any_resolution.image_processor([resized], return_tensors="pt", do_resize=False)["pixel_values"]
    assert torch.equal(found, expected)


def test_pictures_that_keep_their_size_are_not_touched():
    """Resizing them here and not in the stock image processor could change their pixels."""

    class Stock(SimpleNamespace):
        def __call__(self, pictures, **options):
            calls.append((pictures, options))
            return {"image_grid_thw": torch.tensor([[1, 8, 12]])}

    calls, picture = [], drawn((50, 30))
    stock = Stock(merge_size=2, patch_size=4, resample=Image.Resampling.BICUBIC)
    for factor in (1.0, 0.99, 0.8):
        with smaller_images(MODELS["qwen2_vl"].build(), SimpleNamespace(image_processor=stock), factor) as smaller:
            smaller.image_processor([picture], do_rescale=True)
    asked = ([picture], {"do_rescale": True, "return_tensors": "pt"})
    assert calls[:4] == [asked, ([picture], {"do_rescale": True})] * 2
    assert calls[4] == asked
    assert calls[5][0][0].size == (40, 24)
    assert calls[5][1] == {"do_rescale": True, "do_resize": False}


# --- refusals --------------------------------------------------------------------------------------------------------


def enter(model, processor, factor):
    with smaller_images(model, processor, factor):
        pass


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.01, float("nan")])
def test_factors_out_of_range_are_refused(micro, factor):
    with pytest.raises(ConfigError, match=re.escape(f"factor {factor} is outside 0..1; give")):
        enter(*micro, factor)


@pytest.mark.parametrize("name", ["llava_next", "gemma3", "idefics3", "internvl"])
def test_other_families_are_refused(name):
    kind = MODELS[name].model_type
    text = f"model type {kind!r} .*supported are llava with a CLIP or SigLIP tower, qwen2_vl, qwen2_5_vl, qwen3_vl$"
    with pytest.raises(ModelError, match=text) as caught:
        enter(MODELS[name].build(), SimpleNamespace(), 0.5)
    assert "\n" not in str(caught.value)


def test_llava_with_another_tower_is_refused(micro):
    model = copy.deepcopy(micro[0])
    model.config.vision_config.model_type = "pixtral"
    with pytest.raises(ModelError, match="tower 'pixtral'; supported are llava with a CLIP or SigLIP tower"):
        enter(model, micro[1], 0.5)


def test_pictures_that_are_no_pil_images_are_refused(any_resolution):
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    text = "picture of type ndarray cannot be made smaller; give PIL images"
    model = MODELS["qwen2_vl"].build()
    with smaller_images(model, any_resolution, 0.5) as smaller, pytest.raises(DataError, match=text):
        smaller.image_processor([picture])
