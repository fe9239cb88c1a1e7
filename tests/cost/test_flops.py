"""Counted FLOPs equal hand-computed numbers and what a counter sees in a real, really pruned model."""

from types import SimpleNamespace

import pytest
import torch
from builders import build_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from vispco.config import PruningConfig
from vispco.cost import REGISTRY, DecoderShape, FlopCost, count_flops
from vispco.engine import prune
from vispco.errors import BudgetError, ConfigError, ModelError

COVERED = {"flops", "decode_flops", "kv", "peak", "latency", "generation"}
"""Costs whose conformance is tested here and in the files beside this one."""

LLAVA_7B = LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    vocab_size=32064,
)  # fmt: skip
SMALL = LlamaConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64,
)  # fmt: skip
SAMPLES = [(7, 16), (9, 16), (7, 16), (3, 32), (5, 0)]

schedules = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3).map(lambda rest: (1.0, *sorted(rest, reverse=True)))


def test_every_cost_is_covered():
    assert set(REGISTRY) == COVERED, "test the new cost and add it to COVERED"


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_llava_7b_by_hand():
    """576 visual tokens alone: 3.817e12 multiply-adds without the head, as the literature counts them."""
    report = count_flops(LLAVA_7B, 0, 576, [1.0] * 32)
    assert report.projections == 32 * 4 * 2 * 576 * 4096**2
    assert report.attention == 32 * 2 * 2 * 576**2 * 4096
    assert report.mlp == 32 * 3 * 2 * 576 * 4096 * 11008
    assert report.lm_head == 2 * 4096 * 32064
    assert report.selection == 0
    assert report.total - report.lm_head == pytest.approx(2 * 3.817e12, rel=1e-3)
    assert report.total == report.unpruned
    assert report.ratio == 1.0


def test_fastv_on_llava_7b_by_hand():
    """All 640 tokens in layers 0 and 1, 352 in the other 30."""
    keep = [1.0] * 2 + [0.5] * 30
    report = count_flops(LLAVA_7B, 64, 576, keep, selection=1)
    assert report.projections == 8 * 4096**2 * (2 * 640 + 30 * 352)
    assert report.attention == 4 * 4096 * (2 * 640**2 + 30 * 352**2)
    assert report.mlp == 6 * 4096 * 11008 * (2 * 640 + 30 * 352)
    assert report.selection == 2 * 640 * 4096
    assert report.ratio == pytest.approx(0.572, abs=2e-3)
    assert report.total == count_flops(LLAVA_7B, 64, 576, keep).total + report.selection
    assert report.unpruned == count_flops(LLAVA_7B, 64, 576, [1.0] * 32).total


def test_grouped_queries_by_hand():
    """32 query and 8 key/value heads of 64 dimensions in a model 1024 wide, so heads are not hidden / 32."""
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=3000, num_hidden_layers=2, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, vocab_size=100,
    )  # fmt: skip
    report = count_flops(config, 10, 90, [1.0, 1.0])
    assert report.projections == 2 * (2 * 100 * 1024 * 2048 * 2 + 2 * 100 * 1024 * 512 * 2)
    assert report.attention == 2 * 4 * 100**2 * 2048
    assert report.mlp == 2 * 6 * 100 * 1024 * 3000
    assert report.lm_head == 2 * 1024 * 100


def test_selection_is_paid_in_the_layer_before_every_cut():
    """Cuts at layers 1 and 3, scored by 23 and 15 tokens; two rows each."""
    report = count_flops(SMALL, 7, 16, [1.0, 0.5, 0.5, 0.25], selection=2)
    assert report.selection == 2 * 2 * 48 * (23 + 15)
    assert count_flops(SMALL, 7, 16, [1.0] * 4, selection=2).selection == 0
    assert count_flops(SMALL, 7, 2, [1.0, 0.9, 0.8, 0.76], selection=2).selection == 0, "nothing rounds away"


def test_a_cut_is_told_how_many_streams_a_merge_has_to_put_together():
    """The hidden state, and what the vision tower (DeepStack) still adds to this layer's input or later ones."""
    config = SimpleNamespace(
        get_text_config=lambda: SMALL, vision_config=SimpleNamespace(deepstack_visual_indexes=[3, 5])
    )
    told = []
    keep = [0.9, 0.7, 0.5, 0.25]
    count_flops(config, 7, 100, keep, lambda cut: told.append(cut) or 0.0, question=3)
    assert [cut.streams for cut in told] == [3, 2, 1, 1]
    assert [(cut.visual, cut.kept) for cut in told] == [(100, 90), (90, 70), (70, 50), (50, 25)]
    assert [(cut.tokens, cut.question) for cut in told] == [(107, 3), (97, 3), (77, 3), (57, 3)]


def test_sizes_with_defaults():
    text = SimpleNamespace(
        num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128, vocab_size=10,
        num_key_value_heads=None, head_dim=None,
    )  # fmt: skip
    shape = DecoderShape.of(SimpleNamespace(model_type="odd", get_text_config=lambda: text))
    assert (shape.kv_heads, shape.head_dim) == (4, 16)
    del text.intermediate_size
    with pytest.raises(ModelError, match=r"model type 'odd' gives no decoder sizes .*intermediate_size"):
        DecoderShape.of(SimpleNamespace(model_type="odd", get_text_config=lambda: text))


def test_refuses_a_schedule_of_another_model():
    with pytest.raises(ConfigError, match="keep has 3 ratios but the model has 4 decoder layers"):
        count_flops(SMALL, 7, 16, [1.0, 1.0, 1.0])


# --- by counting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("selector", "scored_rows"), [("fastv", 1), ("random", 0)])
@pytest.mark.parametrize(
    ("keep", "visual"),
    [
        ((1.0, 1.0, 1.0, 1.0), 16),
        ((1.0, 0.5, 0.5, 0.25), 16),
        ((1.0, 1.0, 1.0, 0.1), 16),
        ((1.0, 0.7, 0.33, 0.05), 32),
    ],
)
def test_equals_a_flop_counter_on_the_pruned_model(tiny_llava, selector, scored_rows, keep, visual):
    """To the last operation: no term is rounded, and none is missing in the matrix products of the decoder."""
    config = PruningConfig(selector=selector, keep=keep, model={"type": "llava", "layers": 4})
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), prune(tiny_llava, config) as pruned, counter:
        tiny_llava(**build_batch([(2, 5)], [visual // 16]), logits_to_keep=1)
    counted = counter.get_flop_counts()
    parts = [f"{type(tiny_llava).__name__}.{part}" for part in ("model.language_model", "lm_head")]
    report = count_flops(tiny_llava.config, 7, visual, keep, scored_rows)
    assert sum(sum(counted[part].values()) for part in parts) == report.total
    assert (int(pruned.kept_counts[-1]) < visual) == (report.total < report.unpruned)


# --- over samples, soft and exact ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(schedules, st.integers(0, 2))
def test_exact_is_the_ratio_of_means(keep, scored_rows):
    cost = FlopCost(SMALL, SAMPLES, scored_rows)
    reports = [count_flops(SMALL, text, visual, keep, scored_rows) for text, visual in SAMPLES]
    assert cost.exact(keep) == pytest.approx(
        sum(report.total for report in reports) / sum(report.unpruned for report in reports), rel=1e-12
    )
    assert cost.unpruned == pytest.approx(sum(report.unpruned for report in reports) / len(reports), rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 16), min_size=3, max_size=3))
def test_soft_equals_exact_where_nothing_is_rounded(sixteenths):
    keep = [1.0, *(part / 16 for part in sorted(sixteenths, reverse=True))]
    cost = FlopCost(SMALL, SAMPLES)
    assert float(cost.soft(torch.tensor(keep))) == pytest.approx(cost.exact(keep), rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(schedules, st.integers(0, 3), st.floats(1e-3, 0.5))
def test_soft_rises_with_every_ratio(keep, layer, more):
    cost = FlopCost(SMALL, SAMPLES)
    raised = [ratio + more * (place == layer) for place, ratio in enumerate(keep)]
    assert cost.soft(torch.tensor(raised)) > cost.soft(torch.tensor(keep))


def test_soft_gradient_and_shape():
    cost = FlopCost(SMALL, SAMPLES, selection=1)
    ratios = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    soft = cost.soft(ratios)
    assert soft.shape == (2, 3)
    assert soft.dtype == torch.float64
    assert cost.soft(ratios.float()).dtype == torch.float64
    torch.testing.assert_close(soft[1, 2], cost.soft(ratios[1, 2]), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(cost.soft, (ratios,))


@pytest.mark.parametrize("seed", range(20))
def test_the_unpruned_schedule_costs_exactly_one(seed):
    """Not one rounding error more, or a budget of 1 would refuse it."""
    draw = torch.Generator().manual_seed(seed)
    pairs = torch.randint(1, 700, (9, 2), generator=draw).tolist()
    assert FlopCost(SMALL, [tuple(pair) for pair in pairs], selection=1).exact([1.0] * 4) == 1.0


@given(st.lists(schedules, min_size=5, max_size=5), schedules)
def test_exact_of_schedules_of_single_samples(keeps, keep):
    """A ratio of means over samples in their order, of which equal ones are not put together."""
    cost = FlopCost(SMALL, SAMPLES, selection=1)
    parts = [count_flops(SMALL, *sample, own, 1) for sample, own in zip(SAMPLES, keeps, strict=True)]
    expected = sum(part.total for part in parts) / sum(part.unpruned for part in parts)
    assert cost.exact_each(keeps) == pytest.approx(expected, rel=1e-12)
    assert cost.exact_each([keep] * 5) == pytest.approx(cost.exact(keep), rel=1e-12)
    assert cost.exact_each([(1.0,) * 4] * 5) == 1.0
    images = FlopCost(SMALL, [(20, 16, 2, 5), (9, 16, 1, 9)], selection=1)
    many = count_flops(SMALL, 20, 16, keep, 1, 2, 5), count_flops(SMALL, 9, 16, keeps[0], 1, 1, 9)
    ratio = sum(part.total for part in many) / sum(part.unpruned for part in many)
    assert images.exact_each([keep, keeps[0]]) == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("number", [0, 4, 6])
def test_schedules_of_single_samples_are_as_many_as_these(number):
    text = f"^{number} schedules were given for 5 samples; give one for each, in their order$"
    with pytest.raises(ConfigError, match=text):
        FlopCost(SMALL, SAMPLES).exact_each([(1.0,) * 4] * number)


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_budgets_within_reach():
    cost = FlopCost(SMALL, SAMPLES, selection=1)
    floor = [1.0, 1e-6, 1e-6, 1e-6]
    least, most = cost.reachable(floor)
    assert (least, most) == (cost.exact(floor), 1.0)
    for budget in (least, 0.8, 1.0):
        cost.check_budget(budget, floor)


@pytest.mark.parametrize("budget", [0.0, -1.0, 0.2, 1.001, float("nan")])
def test_budgets_out_of_reach(budget):
    cost = FlopCost(SMALL, SAMPLES)
    floor = [1.0, 1e-6, 1e-6, 1e-6]
    least = f"{cost.exact(floor):.3f}"
    message = rf"budget {budget:g} of flops cannot be reached: .* runs from {least} .* to 1\.000 .*; choose a"
    with pytest.raises(BudgetError, match=message):
        cost.check_budget(budget, floor)


def test_images_that_keep_a_token_each_are_counted():
    """Three images of 16 tokens at 2 % of 48: the schedule alone would leave one token, the engine leaves three."""
    keep = (1.0, 0.02, 0.02, 0.0)
    one, three = (count_flops(SMALL, 7, 48, keep, images=images) for images in (1, 3))
    assert three.mlp - one.mlp == 2 * 2 * SMALL_LAYER_MLP
    assert FlopCost(SMALL, [(7, 48, 3)]).exact(keep) == three.ratio
    assert FlopCost(SMALL, [(7, 48)]).exact(keep) == one.ratio


SMALL_LAYER_MLP = 6 * 48 * 80
"""MLP of one token in one layer of SMALL, by hand."""
