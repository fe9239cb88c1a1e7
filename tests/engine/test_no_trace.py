"""Nothing stays on a model after a block, however it ends."""

import itertools
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from composing import OPTIONS, build, case_of, check_equal, plain, run, run_pruned, traces
from torch import nn

from vispco import prune
from vispco.errors import ConfigError


@contextmanager
def unchanged(model, inputs):
    """The model is the same before and after, and computes the same bits."""
    logits = run(model, inputs)
    before = traces(model)
    yield
    assert traces(model) == before
    check_equal(run(model, inputs), logits)


def interrupt(module, error, call=0):
    """Raise an error at one of the calls of a module."""
    calls = itertools.count()

    def hook(*_):
        if next(calls) == call:
            raise error

    return module.register_forward_pre_hook(hook)


class Boom(Exception):
    pass


PLACES = {
    "vision tower": (lambda model: model.model.vision_tower, 0),
    "layer": (lambda model: model.get_decoder().layers[2], 0),
    "attention": (lambda model: model.get_decoder().layers[2].self_attn, 0),
    "head": (lambda model: model.lm_head, 0),
    "decoding": (lambda model: model.get_decoder().layers[2], 2),
}
"""Modules of a LLaVA, and the call of them at which generating is interrupted."""

places = pytest.mark.parametrize("place", PLACES)
errors = pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])


def test_no_trace_of_a_block():
    model, case = build("llava"), case_of("llava")
    with unchanged(model, case.inputs):
        run_pruned(model, case)
        model.zero_grad()


@places
@errors
def test_no_trace_of_an_interrupted_block(place, error):
    model, case = build("llava"), case_of("llava")
    find, call = PLACES[place]
    with unchanged(model, case.inputs):
        hook = interrupt(find(model), error, call)
        with pytest.raises(error):
            run_pruned(model, case)
        hook.remove()


@places
@errors
def test_a_block_goes_on_after_an_interrupted_call(place, error):
    model, case = build("llava"), case_of("llava")
    find, call = PLACES[place]
    with prune(model, case.config()):
        hook = interrupt(find(model), error, call)
        with pytest.raises(error):
            model.generate(**case.inputs, **OPTIONS)
        hook.remove()
        check_equal(run(model, case.inputs), plain("llava"))


@torch.no_grad()
def test_a_call_without_a_cache_that_was_interrupted_is_forgotten():
    """Decoding without a cache goes on from the step before; not from one that never ended."""
    model, case = build("llava"), case_of("llava")
    inputs, longer = one_token_more(case)
    with prune(model, case.config()):
        expected = model(**longer, use_cache=False).logits
    with prune(model, case.config()):
        hook = interrupt(model.get_decoder().layers[2], Boom)
        with pytest.raises(Boom):
            model(**inputs, use_cache=False)
        hook.remove()
        assert torch.equal(model(**longer, use_cache=False).logits, expected)


@torch.no_grad()
def test_one_token_more_without_a_cache_is_another_prompt():
    """Say, the same question about another image; only ``generate`` goes on with a prompt."""
    model, case = build("llava"), case_of("llava")
    inputs, longer = one_token_more(case)
    longer["pixel_values"] = -longer["pixel_values"]
    with prune(model, case.config()):
        expected = model(**longer, use_cache=False).logits
        model(**inputs, use_cache=False)
        assert torch.equal(model(**longer, use_cache=False).logits, expected)
        model.generate(**inputs, use_cache=False, max_new_tokens=1)
        assert torch.equal(model(**longer, use_cache=False).logits, expected)


def one_token_more(case):
    """Inputs, and the same ones with a token of text behind."""
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    longer = {
        "input_ids": nn.functional.pad(ids, (0, 1), value=11),
        "attention_mask": nn.functional.pad(mask, (0, 1), value=1),
    }
    return case.inputs, {**case.inputs, **longer}


def test_no_trace_of_a_set_up_that_fails(monkeypatch):
    model, case = build("llava"), case_of("llava")

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.get_decoder().layers[2], "register_forward_pre_hook", fail)
    with unchanged(model, case.inputs):
        with pytest.raises(KeyboardInterrupt):
            run_pruned(model, case)
        with pytest.raises(ConfigError):
            run_pruned(model, case, keep=(0.5,) * case.layers)


def test_a_generate_of_the_callers_own_stays():
    model, case = build("llava"), case_of("llava")
    model.generate = own = partial(model.generate, max_new_tokens=2)
    with prune(model, case.config()):
        assert model.generate(**case.inputs, do_sample=False).shape[1] == case.inputs["input_ids"].shape[1] + 2
    assert model.generate is own
