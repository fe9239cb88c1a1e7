"""Models to which something else is done, and what a pruned one of them has to give: what the plain one gives."""

from functools import cache

import peft
import pytest
import torch

from vispco import prune
from vispco.testing.conformance import Case
from vispco.testing.models import MODELS, RAGGED
from vispco.testing.selectors import SELECTORS

OPTIONS = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}

families = pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])


@cache
def case_of(family, samples=RAGGED):
    return Case(MODELS[family], SELECTORS["fastv"], samples=samples)


def build(family):
    """A model of its own, for tests that do something to it."""
    return MODELS[family].build()


@torch.no_grad()
def run(model, inputs):
    """Logits of one forward, logits of every step of decoding, and the text."""
    text = model.generate(**inputs, **OPTIONS)
    return model(**inputs).logits, torch.stack(text.logits), text.sequences


def run_pruned(model, case, inputs=None, keep=None):
    with prune(model, case.config(keep)):
        return run(model, inputs or case.inputs)


@cache
def stock(family, samples=RAGGED):
    return run(build(family), case_of(family, samples).inputs)


@cache
def plain(family, samples=RAGGED):
    """What a pruned model gives to which nothing else was done."""
    ours = run_pruned(build(family), case_of(family, samples))
    assert (ours[0] - stock(family, samples)[0]).abs().max() > 0.1, "the schedule changes too little to show anything"
    return ours


def check_close(ours, expected):
    assert float((ours - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def check_same(ours, expected):
    check_close(ours[0], expected[0])
    check_close(ours[1], expected[1])
    assert torch.equal(ours[2], expected[2])


def check_equal(ours, expected):
    """Bit by bit."""
    assert all(map(torch.equal, ours, expected))


def with_lora(model):
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"])).eval()


def answers(case, number=4):
    """Labels: the last tokens of a left-padded batch."""
    labels = torch.full_like(case.inputs["input_ids"], -100)
    labels[:, -number:] = case.inputs["input_ids"][:, -number:]
    return labels


def traces(model):
    """Hooks and attributes of all modules, and the attention backends."""
    modules = dict(model.named_modules())
    hooks = {
        (name, kind): list(value.values())
        for name, module in modules.items()
        for kind, value in vars(module).items()
        if "hook" in kind and isinstance(value, dict)
    }
    methods = {
        (name, kind): value
        for name, module in modules.items()
        for kind, value in vars(module).items()
        if callable(value)
    }
    attributes = {name: set(vars(module)) for name, module in modules.items()}
    configs = {name: module.config for name, module in modules.items() if hasattr(module, "config")}
    backends = {
        name: (config._attn_implementation, type(config._attn_implementation), set(vars(config)))
        for name, config in configs.items()
    }
    return hooks, methods, attributes, backends
