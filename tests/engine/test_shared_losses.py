"""Losses and gradients in two processes: those of one bit by bit, each part run by one of them, all runs told of."""

import pytest
import torch
from processes import together

from vispco.engine import Replay, losses, observed_attention
from vispco.engine.losses import relaxed_losses
from vispco.selectors import make_selector
from vispco.testing import MODELS, RAGGED

KEEPS = [(1.0, 0.6, 0.6, 0.3), (1.0, 1.0, 1.0, 0.4), (1.0, 1.0, 0.5, 0.5)]


@pytest.fixture(scope="module")
def case():
    """A replay with a selector that has a smooth knob, and a captured ragged batch."""
    model = MODELS["llava"].build()
    replay = Replay(model, make_selector("balanced_fastv", {"alpha": 0.33}))
    with observed_attention(replay.family):
        return replay, replay.capture(MODELS["llava"].inputs(RAGGED))


def found(case, *, slopes=True):
    """Losses and gradients as bytes, what was told of layers, and how often layers ran."""
    replay, captured = case
    ratios = torch.tensor(KEEPS, requires_grad=slopes)
    alphas = torch.tensor([0.2, 0.7, 0.5], requires_grad=slopes)
    told, runs = [], []
    hooks = [layer.mlp.register_forward_hook(lambda *_: runs.append(1)) for layer in replay.family.layers]
    with observed_attention(replay.family), torch.set_grad_enabled(slopes):
        values = relaxed_losses(
            replay, captured, ratios, captured.query[:, None],
            lambda samples, logits: logits.square().sum(dim=(1, 2)) * (1 + samples), temperature=0.1,
            knobs={"alpha": alphas}, visit=lambda *told_of: told.append(tuple(map(str, told_of))),
        )  # fmt: skip
        if slopes:
            (values * torch.linspace(-1.0, 2.0, values.numel()).view_as(values)).sum().backward()
    for hook in hooks:
        hook.remove()
    gradients = (ratios.grad, alphas.grad) if slopes else ()
    return [tensor.detach().numpy().tobytes() for tensor in (values, *gradients)], told, len(runs)


@pytest.mark.parametrize("slopes", [True, False])
@pytest.mark.parametrize(("part", "shares"), [(1, (15, 15)), (1024, (3 + 3 + 1, 3 + 2))])
def test_two_processes_equal_one(case, monkeypatch, part, shares, slopes):
    """One part per sample, or one for all four; layers before the first cuts, three of them, run in both."""
    monkeypatch.setattr(losses, "PART", part)
    values, told, runs = found(case, slopes=slopes)
    assert len(set(values[0])) > 1
    assert runs == 3 + (4 if part == 1 else 1) * (3 + 1 + 2)
    assert together(lambda rank: found(case, slopes=slopes)) == [(values, told, ran) for ran in shares]
