"""VTW's schedules: which there are, which layer is chosen, and what a model makes of a ratio of zero."""

import numpy as np
import pytest
import torch
from builders import IMAGE, build_tiny_llava

from vispco.config import PruningConfig
from vispco.cost import DecoderShape, count_flops
from vispco.data import load_samples
from vispco.engine import load_checkpoint, model_card, prune
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator, prompt_text
from vispco.schedule import check_keep, keep_counts
from vispco.search import choose_layers, withdrawal_schedules
from vispco.testing import SELECTORS


def test_schedules_keep_all_and_then_none():
    assert withdrawal_schedules(4) == {1: (1, 0, 0, 0), 2: (1, 1, 0, 0), 3: (1, 1, 1, 0)}
    assert list(withdrawal_schedules(32, 5)) == [*range(5, 32)]
    for layer, schedule in withdrawal_schedules(32, 5).items():
        assert check_keep(schedule, 32) == schedule
        counts = keep_counts(schedule, [576, 7], torch.tensor([1, 3])).tolist()
        assert counts == [[576, 7]] * layer + [[0, 0]] * (32 - layer)


@pytest.mark.parametrize("first", [0, 4, -1])
def test_first_layers_that_are_refused(first):
    with pytest.raises(ConfigError, match=rf"^first = {first} is outside 1..3; give"):
        withdrawal_schedules(4, first)


KL = {2: 0.9, 3: 0.2, 4: 0.3, 5: 0.003, 6: 0.001}


def test_the_smallest_layer_that_meets_a_threshold():
    """Even if a later one does not, and exactly at the threshold too."""
    assert choose_layers(KL, [0.25, 0.003, 0.0029, 1.0]) == {0.25: 3, 0.003: 5, 0.0029: 6, 1.0: 2}


def test_thresholds_that_no_layer_meets_are_left_out():
    assert choose_layers(KL, [0.0005, 0.5]) == {0.5: 3}
    with pytest.raises(ConfigError, match=r"^eta = \[0\.0005\] is met by no layer; the least KL is 0\.001, .* layer 6"):
        choose_layers(KL, [0.0005])


# --- a ratio of zero -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava"), load_samples("shapes", "validation", 8)


def without_visual_tokens(model, inputs, first):
    """Log-probabilities of the stock model whose layers from ``first`` on cannot see visual tokens."""
    visual = inputs["input_ids"] == model.config.image_token_id
    places = torch.arange(visual.shape[1])
    real = inputs["attention_mask"].bool() & ~visual

    def hide(layer, args, kwargs):
        seen = (real[:, None] & (places <= places[:, None])) | torch.eye(len(places), dtype=torch.bool)
        return args, {**kwargs, "attention_mask": seen[:, None]}

    hooks = [
        layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in model.model.language_model.layers[first:]
    ]
    try:
        return model(**inputs).logits[:, -1].double().log_softmax(-1)
    finally:
        for hook in hooks:
            hook.remove()


def test_quality_is_that_of_the_stock_model_without_the_tokens(micro):
    (model, processor), samples = micro
    texts = [prompt_text(processor, sample.question) for sample in samples]
    inputs = processor(text=texts, images=[[s.image] for s in samples], padding=True, return_tensors="pt")
    schedules = withdrawal_schedules(8)
    found = dict(zip(schedules, Evaluator(model, processor, samples).evaluate([*schedules.values()]), strict=True))
    with torch.no_grad():
        stock = model(**inputs).logits[:, -1].double().log_softmax(-1)
        for layer in (1, 4, 7):
            withdrawn = without_visual_tokens(model, inputs, layer)
            expected = (stock.exp() * (stock - withdrawn)).sum(dim=-1)
            np.testing.assert_allclose(found[layer].kl, expected.numpy(), atol=1e-4, rtol=1e-3)
    assert found[1].kl.mean() > found[7].kl.mean() > 0


def test_cost_is_that_of_the_text_alone(micro):
    config = micro[0][0].config
    shape = DecoderShape.of(config)
    report = count_flops(config, 10, 100, (1.0,) * 3 + (0.0,) * 5, images=2)
    assert report.total == 3 * shape.layer(110.0) + 5 * shape.layer(10.0) + shape.lm_head


@pytest.mark.parametrize("name", SELECTORS)
def test_nothing_of_several_images_stays_whatever_the_selector(name):
    """One token per image is the least above zero only; samples of one, two and no images."""
    model = build_tiny_llava()
    words = torch.randint(10, 64, (3, 39), generator=torch.Generator().manual_seed(0))
    words[0, 3:19] = words[1, 2:18] = words[1, 19:35] = IMAGE
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words), "pixel_values": pixels}
    case = SELECTORS[name]
    config = PruningConfig(
        selector=case.selector, selector_params=case.params, keep=(1.0, 1.0, 0.0, 0.0), model=model_card(model)
    )
    with torch.no_grad():
        with prune(model, config) as pruned:
            found = model(**batch).logits[:, -1].double().log_softmax(-1)
        assert pruned.kept_counts.tolist() == [[16, 32, 0]] * 2 + [[0, 0, 0]] * 2
        torch.testing.assert_close(found, without_visual_tokens(model, batch, 2), atol=1e-4, rtol=1e-4)
