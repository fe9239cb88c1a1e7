"""What a caller sees of a pruned model: counts, kept tokens, shapes. (Exactness is the conformance suite's matter.)"""

import pytest
import torch
from builders import VISUAL, build_batch

from vispco import ModelCard, PruningConfig, prune
from vispco.errors import ConfigError
from vispco.testing import MODELS, SELECTORS, Case, Sample

CARD = ModelCard(type="llava", layers=4)
STAGED = (1.0, 0.5, 0.5, 0.2)


def config(keep, selector="fastv", **params):
    return PruningConfig(selector=selector, selector_params=params, keep=keep, model=CARD)


def test_counts_cache_and_bytes_follow_the_schedule(tiny_llava):
    """By hand: 7 text tokens, 16 visual tokens; 4 layers with 2 key/value heads of 12 numbers, float32."""
    batch = build_batch([(2, 5)], [1])
    with prune(tiny_llava, config(STAGED)) as pruned:
        out = tiny_llava.generate(**batch, max_new_tokens=6, do_sample=False, return_dict_in_generate=True)
    counts = [16, 8, 8, 3]
    assert pruned.kept_counts.tolist() == [[count] for count in counts]
    assert [int(alive.sum()) for alive in pruned.kept] == counts
    assert pruned.kv_bytes == sum(7 + count for count in counts) * 2 * 2 * 12 * 4
    # The last of six generated tokens is never fed back.
    assert [layer.keys.shape[-2] for layer in out.past_key_values.layers] == [7 + count + 5 for count in counts]
    assert out.past_key_values.get_seq_length() == 7 + 16 + 5


def test_budgets_are_each_samples_own(tiny_llava, ragged_batch):
    with prune(tiny_llava, config(STAGED)) as pruned:
        tiny_llava(**ragged_batch)
    assert pruned.kept_counts.tolist() == [[16, 32, 0, 16], [8, 16, 0, 8], [8, 16, 0, 8], [3, 6, 0, 3]]


def test_kept_sets_are_nested(tiny_llava, ragged_batch):
    with prune(tiny_llava, config((1.0, 0.75, 0.5, 0.25))) as pruned:
        tiny_llava(**ragged_batch)
    for before, after in zip(pruned.kept, pruned.kept[1:], strict=False):
        assert not (after & ~before).any()


@pytest.mark.parametrize("name", ["llava", "idefics3"])
@pytest.mark.parametrize("selector", SELECTORS.values(), ids=list(SELECTORS))
def test_every_image_keeps_a_token_unless_the_schedule_says_none(name, selector):
    """Of several images the better ones may not take all places; a tile that stands apart counts as an image."""
    case = Case(MODELS[name], selector, samples=(Sample(2, 3, 5, seed=1), Sample(2, 1, 5, seed=2)))
    few = 0.01
    with prune(case.net, case.config((1.0, few, few, 0.0))) as pruned:
        case.net(**case.inputs)
    for row, visual in enumerate(case.visual):
        starts = (visual.int().diff(prepend=visual[:1].int() * 0) == 1).long().cumsum(0)[visual] - 1
        images = int(starts.max()) + 1
        assert images > 1 or row == 1
        kept = pruned.kept[1][row][: len(starts)]
        assert sorted(starts[kept].tolist()) == list(range(images)), "one token of every image, and none else"
        assert pruned.kept_counts[:, row].tolist() == [len(starts), images, images, 0]


def test_the_best_of_each_image_comes_first_then_the_best_of_all():
    """Three tokens of two images: one leads each image, and the third is the best of the rest."""
    case = Case(MODELS["llava"], SELECTORS["fastv"], samples=(Sample(2, 2, 5, seed=1),))
    keep = (1.0, 3 / 32, 3 / 32, 3 / 32)
    with prune(case.net, case.config(keep)) as pruned:
        case.net(**case.inputs)
    [kept] = pruned.kept[1]
    assert sorted([int(kept[:VISUAL].sum()), int(kept[VISUAL:].sum())]) == [1, 2]


def test_logits_keep_the_callers_shape(tiny_llava, ragged_batch):
    with prune(tiny_llava, config(STAGED)):
        out = tiny_llava(**ragged_batch, output_hidden_states=True)
        last = tiny_llava(**ragged_batch, logits_to_keep=1).logits
        rows = tiny_llava(**ragged_batch, logits_to_keep=torch.tensor([-3, -1])).logits
        plain = tiny_llava(**ragged_batch, return_dict=False)[0]
    assert out.logits.shape[:2] == ragged_batch["input_ids"].shape
    assert out.hidden_states[-1].shape[:2] == ragged_batch["input_ids"].shape
    torch.testing.assert_close(out.logits[:, -1:], last, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.logits[:, [-3, -1]], rows, atol=1e-5, rtol=1e-4)
    assert torch.equal(plain, out.logits)


def test_random_choices_are_a_prompts_own(tiny_llava):
    """Other words are other choices, though their places are the same; other pictures are not."""
    one, other = (build_batch([(3, 5)], [1], seed=seed) for seed in (1, 2))
    shown = {**one, "pixel_values": other["pixel_values"]}
    kept = []
    for batch in (one, other, shown):
        with prune(tiny_llava, config(STAGED, "random")) as pruned:
            tiny_llava(**batch)
        kept.append(pruned.kept[-1])
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])


def test_the_inner_model_may_be_called(tiny_llava, ragged_batch):
    with prune(tiny_llava, config(STAGED)):
        hidden = tiny_llava.model(**ragged_batch).last_hidden_state
        logits = tiny_llava(**ragged_batch).logits
    assert torch.equal(tiny_llava.lm_head(hidden), logits)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"model": ModelCard(type="llava", layers=5), "keep": (1.0,) * 5}, "5 decoder layers"),
        ({"model": ModelCard(type="qwen2_vl", layers=4)}, "qwen2_vl"),
        ({"selector": "fastw"}, "fastv, .*random"),
        ({"selector_params": {"alpha": 1}}, "alpha"),
        (
            {"keep": (0.7, 0.5, 0.5, 0.5)},
            r"keep\[0\] = 0.7 drops tokens before layer 0.*choose a selector that needs no attention",
        ),
    ],
)
def test_configurations_that_do_not_fit_are_refused(tiny_llava, bad, message):
    fields = {"selector": "fastv", "keep": STAGED, "model": CARD, **bad}
    with pytest.raises(ConfigError, match=message), prune(tiny_llava, PruningConfig(**fields)):
        pass


@pytest.mark.parametrize("name", list(MODELS))
def test_tokens_may_be_dropped_before_the_first_layer(name):
    """By a selector that needs no attention: the form that serving engines can run."""
    case = Case(MODELS[name], SELECTORS["random"], MODELS[name].backends[0])
    keep = (0.25,) * case.layers
    with prune(case.net, case.config(keep)) as pruned:
        dropped = case.net(**case.inputs).logits
    with case.masked(pruned.kept):
        masked = case.net(**case.inputs).logits
    rows = case.there(pruned.kept)[0]
    case.check_close(dropped[rows], masked[rows], "dropping is not masking")
    assert (pruned.kept_counts[0] < case.visual.sum(dim=1)).sum() == 3


def test_a_projected_configuration_runs(tiny_llava, ragged_batch):
    projected = config(STAGED).project_to_input(selector="random").config
    with prune(tiny_llava, projected) as pruned:
        tiny_llava(**ragged_batch)
    assert pruned.kept_counts.tolist() == [[9, 18, 0, 9]] * 4  # mean of STAGED: 0.55
