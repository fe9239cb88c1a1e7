"""Layers that run again in the backward pass run on the same tokens."""

import pytest
import torch
import transformers
from composing import answers, build, case_of, families

from vispco import prune
from vispco.errors import ModelError
from vispco.selectors import Scorer

HOOKS_RUN_AGAIN = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)
"""Whether gradient checkpointing runs a layer again with the hooks on it, as older releases of transformers do."""


class Fickle(Scorer):
    """A selector that chooses other tokens when it is asked again."""

    needs = frozenset({"last_row"})

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def score(self, inputs):
        return inputs.last_row * torch.rand(inputs.last_row.shape, generator=self.generator)


@families
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(monkeypatch, family, reentrant):
    """Layers that run again in the backward pass run on the same tokens."""
    case, model = case_of(family), build(family).train().requires_grad_(True)
    monkeypatch.setattr("vispco.engine.pruning.make_selector", lambda *_: Fickle())
    runs = []
    model.get_decoder().layers[2].self_attn.register_forward_pre_hook(lambda *_: runs.append(1))

    def train():
        model.zero_grad()
        with prune(model, case.config()):
            loss = model(**case.inputs, labels=answers(case)).loss
            loss.backward()
        return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    checkpointing = {"use_reentrant": reentrant}
    if family == "qwen3_vl" and reentrant:
        if HOOKS_RUN_AGAIN:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
            with pytest.raises(ModelError, match="pass use_reentrant=False or freeze the vision tower"):
                train()
            model.gradient_checkpointing_disable()
            runs.clear()
        model.model.visual.requires_grad_(False)
    expected, gradients = train()
    assert len(runs) == 1
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    loss, ours = train()
    assert len(runs) == 3, "the layer did not run again"
    assert torch.equal(loss, expected)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        error = float((ours[name] - gradient).abs().max())
        assert error <= 1e-5 * max(1.0, float(gradient.abs().max())), f"gradient of {name} is off by {error:.2g}"
