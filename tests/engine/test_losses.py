"""Losses with their gradient at once: equal to one graph of everything, part by part, and each layer told of once."""

import pytest
import torch

from vispco.engine import Replay, losses, observed_attention
from vispco.engine.losses import recomputed, relaxed_losses
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


def square(samples, logits):
    """A loss that tells samples apart."""
    return logits.square().sum(dim=(1, 2)) * (1 + samples)


def slopes(case, *, at_once, knobs=False, hard=False, **options):
    """Losses (schedules, batch), and gradients of a sum with a weight per loss, in ratios and knobs."""
    replay, captured = case
    ratios = torch.tensor(KEEPS, requires_grad=True)
    alphas = torch.tensor([0.2, 0.7, 0.5], requires_grad=True)
    rows, given = captured.query[:, None], {"alpha": alphas} if knobs else None
    with observed_attention(replay.family):
        if at_once:
            found = relaxed_losses(
                replay, captured, ratios, rows, square, temperature=0.1, hard=hard, knobs=given, **options
            )
        else:
            logits = replay.relaxed(captured, ratios, rows, temperature=0.1, hard=hard, knobs=given)
            found = torch.stack([square(torch.arange(len(rows)), own) for own in logits])
    weights = torch.linspace(-1.0, 2.0, found.numel()).view_as(found)
    inputs = (ratios, alphas) if knobs else (ratios,)
    return found, *torch.autograd.grad((found * weights).sum(), inputs)


@pytest.mark.parametrize("part", [1, 1024])
@pytest.mark.parametrize("options", [{}, {"hard": True}, {"knobs": True}])
def test_they_equal_one_graph_of_everything(case, monkeypatch, options, part):
    monkeypatch.setattr(losses, "PART", part)
    monkeypatch.setattr("vispco.engine.replay.WHOLE", 0.0)  # one graph has to begin at the first cut of all
    whole, parts = slopes(case, at_once=False, **options), slopes(case, at_once=True, **options)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-3)
    assert (parts[1][:, 1:] != 0).all()


def test_four_micro_batches_equal_one_batch(case):
    """Gradients of a mean over samples add up, whoever runs beside whom."""
    replay, captured = case

    def slope(captured):
        ratios = torch.tensor(KEEPS, requires_grad=True)
        rows = captured.query[:, None]
        with observed_attention(replay.family):
            found = relaxed_losses(
                replay, captured, ratios, rows, lambda _, logits: logits.square().mean(dim=(1, 2)), temperature=0.1
            )
        return torch.autograd.grad(found.sum() / 4, ratios)[0]

    whole = slope(captured)
    parts = [slope(captured.select(torch.tensor([sample]))) for sample in range(4)]
    assert whole.abs().max() > 1e-2
    assert len(parts) == len(captured.hidden)
    torch.testing.assert_close(sum(parts), whole, atol=1e-6, rtol=1e-5)


def test_layers_before_the_own_first_cut_have_no_slope_and_the_others_the_same(case, monkeypatch):
    at_once = slopes(case, at_once=True)
    monkeypatch.setattr("vispco.engine.replay.WHOLE", 0.0)
    every = slopes(case, at_once=True)
    torch.testing.assert_close(at_once[0], every[0], atol=1e-4, rtol=1e-4)
    cut = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]], dtype=torch.bool)
    assert (at_once[1][~cut] == 0).all()
    torch.testing.assert_close(at_once[1][cut], every[1][cut], atol=1e-4, rtol=1e-3)


def test_recomputing_mlps_changes_nothing_but_how_often_they_run(case):
    replay, calls = case[0], []
    hooks = [layer.mlp.gate_proj.register_forward_hook(lambda *_: calls.append(1)) for layer in replay.family.layers]
    plain = slopes(case, at_once=True)
    once = len(calls)
    again = slopes(case, at_once=True, recompute=True)
    for hook in hooks:
        hook.remove()
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(other, one)
    # Layers 1 to 3, 3, and 2 to 3 run in parts, the others are shared; parts of the ragged batch are one each.
    assert (once, len(calls) - once) == (9, 9 + 6)
    assert not any("forward" in vars(layer.mlp) for layer in replay.family.layers)


def test_every_run_of_a_layer_is_told_of_once(case):
    told = []
    replay, captured = case
    slopes(case, at_once=True, visit=lambda samples, kept, passes: told.append((samples.tolist(), kept, passes)))
    everyone = list(range(len(captured.hidden)))
    assert [passes for *_, passes in told] == [1, 2, 2, 2, 1, 2, 2, 1, 2]
    assert all(samples == everyone for samples, *_ in told)
    assert all(kept.tolist() == captured.visual_tokens.tolist() for _, kept, passes in told if passes == 1)
    told.clear()
    with observed_attention(replay.family), torch.no_grad():
        relaxed_losses(
            replay, captured, torch.tensor(KEEPS[:1]), captured.query[:, None], square, temperature=0.1,
            visit=lambda samples, kept, passes: told.append(passes),
        )  # fmt: skip
    assert told == [1, 1, 1, 1]


def test_memory_is_that_of_a_part(case, monkeypatch):
    """Bytes that autograd stores for the backward pass: at no time those of more than one part."""
    live = {"now": 0, "most": 0}

    class Stored:
        def __init__(self, value):
            self.value, self.size = value, value.numel()
            live["now"] += self.size
            live["most"] = max(live["most"], live["now"])

        def __del__(self):
            live["now"] -= self.size

    most = []
    for at_once in (False, True):
        monkeypatch.setattr(losses, "PART", 1)
        live.update(now=0, most=0)
        with torch.autograd.graph.saved_tensors_hooks(Stored, lambda stored: stored.value):
            slopes(case, at_once=at_once)
        most.append(live["most"])
    assert most[1] < 0.25 * most[0], "three schedules on four samples"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_has_mlps_to_run_again(name):
    layers = Replay(MODELS[name].build(), make_selector("fastv")).family.layers
    own = layers[0].mlp.forward
    with recomputed(layers, True):
        assert layers[0].mlp.forward != own
    assert layers[0].mlp.forward == own
