"""Models wrapped by PEFT; several models, and blocks within one another."""

import pytest
import torch
from composing import (
    answers,
    build,
    case_of,
    check_equal,
    check_same,
    families,
    plain,
    run,
    run_pruned,
    stock,
    traces,
    with_lora,
)

from vispco import prune
from vispco.errors import ModelError


@families
def test_peft_model(family):
    wrapped = with_lora(build(family))
    run(wrapped, case_of(family).inputs)  # installs what stock models leave behind
    before = traces(wrapped)
    check_same(run_pruned(wrapped, case_of(family)), plain(family))
    assert traces(wrapped) == before
    check_same(run(wrapped, case_of(family).inputs), stock(family))


@families
def test_training_adapters(family):
    """At their start adapters change nothing, so the loss is that of the model alone; gradients reach every layer."""
    case, model, wrapped = case_of(family), build(family).train(), with_lora(build(family)).train()
    with torch.no_grad(), prune(model, case.config()):
        expected = model(**case.inputs, labels=answers(case)).loss
    with prune(wrapped, case.config()):
        loss = wrapped(**case.inputs, labels=answers(case)).loss
        loss.backward()
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=1e-5)
    for index, layer in enumerate(wrapped.get_base_model().get_decoder().layers):
        for projection in (layer.self_attn.q_proj, layer.self_attn.v_proj):
            assert projection.lora_B["default"].weight.grad.abs().max() > 0, f"no gradient in layer {index}"


@pytest.mark.parametrize("outer", ["model", "adapters"])
@pytest.mark.parametrize("inner", ["model", "adapters"])
def test_nested_use_is_refused(outer, inner):
    """Under any wrapper; and the outer block goes on."""
    case, model = case_of("llava"), build("llava")
    either = {"model": model, "adapters": with_lora(model)}
    with prune(either[outer], case.config()):
        with pytest.raises(ModelError, match="already being pruned"), prune(either[inner], case.config()):
            pass
        check_same(run(either[outer], case.inputs), plain("llava"))
    check_same(run(model, case.inputs), stock("llava"))


def test_several_models_at_once():
    """Also of one class, with schedules of their own, in any order."""
    case, other = case_of("llava"), case_of("qwen3_vl")
    first, second, third = build("llava"), build("llava"), build("qwen3_vl")
    with prune(first, case.config()), prune(second, case.config((1.0,) * 4)), prune(third, other.config()):
        check_equal(run(third, other.inputs), plain("qwen3_vl"))
        check_equal(run(first, case.inputs), plain("llava"))
        check_equal(run(second, case.inputs), stock("llava"))
        check_equal(run(first, case.inputs), plain("llava"))
