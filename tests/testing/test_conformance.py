"""Every family, selector and backend passes the conformance suite, and the suite can fail."""

from dataclasses import replace

import pytest
import torch

from vispco.engine import attention, cache, gathering, pruning, running
from vispco.engine.families import REGISTRY as FAMILIES
from vispco.selectors import REGISTRY as REGISTERED
from vispco.testing import CHECKS, MODELS, RAGGED, SELECTORS, Case, Sample, matrix, run_check
from vispco.testing.conformance import SINGLE

BATCHED = [name for name in CHECKS if name not in ("flops", "decode_flops")]
FASTV = SELECTORS["fastv"]


def test_every_family_and_selector_has_an_entry():
    assert {model.model_type for model in MODELS.values()} == set(FAMILIES), "add a model to vispco/testing/models"
    assert {case.selector for case in SELECTORS.values()} == set(REGISTERED), "add it to vispco/testing/selectors.py"


def test_the_matrix_is_whole():
    cells = {
        (case.model.name, case.selector.selector, len(case.samples), case.backend, case.dtype) for case in matrix()
    }
    expected = sum(
        len(model.backends) * sum(model.tower or not selector.needs_tower for selector in SELECTORS.values())
        for model in MODELS.values()
    )
    expected *= 2 * 2
    assert len(cells) == len(matrix()) == expected
    assert {model.backends for model in MODELS.values()} == {("sdpa", "eager"), ("eager",)}


ANCHORS = ("fastv", "random")
"""Selectors that go through every check on every model; what the others choose is all that is different there."""


@pytest.mark.parametrize("check", BATCHED)
@pytest.mark.parametrize("case", [case for case in matrix() if case.selector.selector in ANCHORS], ids=str)
def test_matrix(case, check):
    run_check(check, case)


CHOOSERS = [
    case
    for case in matrix()
    if case.selector.selector not in ANCHORS
    and (case.dtype == torch.float32 or case.backend == case.model.backends[0])
    and (len(case.samples) > 1 or case.backend == case.model.backends[0])
]
"""Cells of the other selectors: what they choose from is the same under every backend that was seen to be right."""


@pytest.mark.parametrize("case", CHOOSERS, ids=str)
def test_every_selector_on_every_model(case):
    run_check("drop_equals_mask", case)
    if len(case.samples) > 1:
        run_check("batch_equals_singles", case)


@pytest.mark.parametrize("check", ["decoding", "replay", "keep_one"])
@pytest.mark.parametrize("selector", [name for name in SELECTORS if name not in ANCHORS])
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_every_selector_in_decoding_and_searching(name, selector, check):
    run_check(check, Case(MODELS[name], SELECTORS[selector]))


@pytest.mark.parametrize(
    "case", [c for c in matrix([torch.float32]) if len(c.samples) == 1 and c.backend == c.model.backends[0]], ids=str
)
def test_flops(case):
    run_check("flops", case)


@pytest.mark.parametrize("name", MODELS)
def test_decode_flops(name):
    run_check("decode_flops", Case(MODELS[name], FASTV, MODELS[name].backends[0], samples=SINGLE))


@pytest.mark.parametrize(
    "case", [case for case in matrix([torch.float64]) if case.selector.selector in ANCHORS], ids=str
)
def test_dropping_is_masking_to_the_last_digits(case):
    run_check("drop_equals_mask", case)


@pytest.mark.parametrize("check", ["keep_one", "drop_equals_mask", "batch_equals_singles", "replay"])
@pytest.mark.parametrize("name", MODELS)
def test_right_padding(name, check):
    run_check(check, replace(Case(MODELS[name], FASTV, MODELS[name].backends[0]), padding="right"))


@pytest.mark.parametrize("check", ["keep_one", "drop_equals_mask", "batch_equals_singles", "decoding", "replay"])
@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.videos])
def test_videos_images_and_text_in_one_batch(name, check):
    samples = (Sample(2, 0, 5, seed=5, video=True), Sample(3, 1, 4, seed=6), Sample(3, 0, 9, seed=7))
    run_check(check, Case(MODELS[name], FASTV, samples=samples))


def contiguous(table, slots):
    """Positions as if nothing had been dropped before a token."""
    return table[:, : slots.shape[1]].expand(slots.shape[0], -1, -1)


def visible_fillers(mask, rows, columns, dtype, fillers, offset=0):
    middle = columns.amax(dim=1, keepdim=True) // 2
    return gathering.gather_mask(mask, rows, columns.where(columns >= 0, middle), dtype, fillers, offset)


def unwindowed(mask, rows, columns, dtype, fillers, offset=0):
    return gathering.gather_mask(mask, rows, columns.clamp(min=offset), dtype, fillers, offset)


def unweighted(query, key, value, mask, policy, scaling):
    return query.transpose(1, 2)


MUTATIONS = {
    "contiguous positions": ("llava", "drop_equals_mask", running, "gather_table", contiguous),
    "fillers that are seen": ("llava", "batch_equals_singles", running, "gather_mask", visible_fillers),
    "keys out of a window that are seen": ("gemma3", "decoding", pruning, "gather_mask", unwindowed),
    "a stock cache": ("gemma3", "decoding", pruning, "take_over", lambda cache, layers: []),
    "a wrong cache length": ("llava", "decoding", cache.LogicalLayer, "get_seq_length", lambda self: self.length and 9),
    "no DeepStack": ("qwen3_vl", "drop_equals_mask", pruning, "take_deepstack", lambda kwargs: (kwargs, [])),
    "keys without weights": ("llava", "replay", attention, "policy_attention", unweighted),
    "another row that scores": (
        "llava",
        "batch_equals_singles",
        pruning,
        "prompt_end",
        lambda r, v, labels: r.sum(1) - 1,
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_suite_can_fail(mutation, monkeypatch):
    name, check, place, attribute, wrong = MUTATIONS[mutation]
    case = Case(MODELS[name], FASTV)
    run_check(check, case)
    monkeypatch.setattr(place, attribute, wrong)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        run_check(check, case)


def test_flops_that_are_wrong_are_found(monkeypatch):
    from vispco.cost import DecoderShape

    case = Case(MODELS["llava"], FASTV, samples=SINGLE)
    monkeypatch.setattr(DecoderShape, "mlp_cost", lambda self, tokens: 4.0 * self.hidden * self.mlp * tokens)
    with pytest.raises(AssertionError, match="counter sees"):
        run_check("flops", case)


@pytest.mark.parametrize("part", ["attention", "projections", "lm_head"])
def test_decode_flops_that_are_wrong_are_found(monkeypatch, part):
    from vispco.cost import DecoderShape

    case = Case(MODELS["gemma3"], FASTV, samples=SINGLE)
    right = getattr(DecoderShape, part)
    wrong = property(lambda self: 1.1 * right.fget(self)) if part == "lm_head" else lambda *known: 1.1 * right(*known)
    monkeypatch.setattr(DecoderShape, part, wrong)
    with pytest.raises(AssertionError, match="counter sees"):
        run_check("decode_flops", case)


def test_bytes_that_are_wrong_are_found(monkeypatch):
    from vispco.cost import KvCost

    right = KvCost.held
    monkeypatch.setattr(KvCost, "held", lambda *known: [each + 1 for each in right(*known)])
    with pytest.raises(AssertionError, match="were priced"):
        run_check("decoding", Case(MODELS["gemma3"], FASTV, samples=SINGLE))


def test_samples_of_the_ragged_batch_differ():
    assert {sample.images for sample in RAGGED} == {0, 1, 2}
    assert len({sample.before + sample.after for sample in RAGGED}) > 2
