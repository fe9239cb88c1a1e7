"""The differentiable twin: hard weights equal dropping, soft weights have the gradient they promise."""

import pytest
import torch
from builders import build_batch, build_tiny_llava

from vispco.engine import Replay, observed_attention
from vispco.engine.attention import policy_attention
from vispco.engine.families import describe
from vispco.engine.relaxed import NEGLIGIBLE
from vispco.selectors import make_selector

PLANS = [(1.0, 0.5, 0.5, 0.2), (1.0, 0.9, 0.3, 0.05), (1.0, 1.0, 0.6, 0.6)]


@pytest.fixture
def replayed(tiny_llava, ragged_batch):
    """Replay and captured ragged batch, inside the observed attention."""
    replay = Replay(tiny_llava, make_selector("fastv"))
    with observed_attention(describe(tiny_llava)):
        yield replay, replay.capture(ragged_batch)


@pytest.mark.parametrize("keep", PLANS)
def test_straight_through_forward_equals_dropping(replayed, keep):
    replay, captured = replayed
    rows = captured.query[:, None]
    dropped = replay.run(captured, keep, rows)
    hard = replay.relaxed(captured, torch.tensor([keep]), rows, temperature=0.1, hard=True)
    torch.testing.assert_close(hard[0], dropped, atol=1e-5, rtol=1e-4)
    unpruned = replay.run(captured, (1.0,) * 4, rows)
    assert (dropped - unpruned).abs().max() > 0.1


def test_straight_through_forward_equals_dropping_where_causal_needs_no_mask(tiny_llava):
    """Samples of one length, one answer before the end: no layer gets a mask."""
    replay = Replay(tiny_llava, make_selector("fastv"))
    with observed_attention(replay.family):
        captured = replay.capture(build_batch([(2, 5), (3, 4)], [1, 1]))
        assert captured.arguments[0]["attention_mask"] is None
        rows = torch.stack([captured.query - 1, captured.query], dim=1)
        dropped = replay.run(captured, PLANS[0], rows)
        hard = replay.relaxed(captured, torch.tensor([PLANS[0]]), rows, temperature=0.1, hard=True)
    torch.testing.assert_close(hard[0], dropped, atol=1e-5, rtol=1e-4)


def test_straight_through_gradient_reaches_every_ratio(replayed):
    replay, captured = replayed
    ratios = torch.tensor([PLANS[0]], requires_grad=True)
    logits = replay.relaxed(captured, ratios, captured.query[:, None], temperature=0.1, hard=True)
    logits.square().sum().backward()
    assert ratios.grad.isfinite().all()
    assert (ratios.grad[0, 1:] != 0).all()


def test_samples_without_images_keep_the_gradient_finite(replayed):
    """The third sample of the ragged batch has no visual token at all."""
    replay, captured = replayed
    assert captured.visual_tokens.tolist() == [16, 32, 0, 16]
    ratios = torch.tensor(PLANS, requires_grad=True)
    logits = replay.relaxed(captured, ratios, captured.query[:, None], temperature=0.05)
    logits.square().sum().backward()
    assert ratios.grad.isfinite().all()
    assert (ratios.grad[:, 1:] != 0).any(dim=1).all()


def test_soft_weights_approach_dropping_as_they_harden(replayed):
    replay, captured = replayed
    rows, keep = captured.query[:, None], (1.0, 0.5, 0.5, 0.25)
    dropped = replay.run(captured, keep, rows)
    errors = [
        float((replay.relaxed(captured, torch.tensor([keep]), rows, temperature=t)[0] - dropped).abs().max())
        for t in (0.2, 0.02, 0.002)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


def test_all_ones_is_the_unpruned_model(replayed):
    replay, captured = replayed
    rows = captured.query[:, None]
    soft = replay.relaxed(captured, torch.ones(1, 4), rows, temperature=0.05)
    torch.testing.assert_close(soft[0], replay.run(captured, (1.0,) * 4, rows), atol=1e-5, rtol=1e-4)


def test_schedules_share_a_batch(replayed):
    replay, captured = replayed
    rows = captured.query[:, None]
    together = replay.relaxed(captured, torch.tensor(PLANS), rows, temperature=0.05)
    for index, keep in enumerate(PLANS):
        alone = replay.relaxed(captured, torch.tensor([keep]), rows, temperature=0.05)[0]
        torch.testing.assert_close(together[index], alone, atol=1e-5, rtol=1e-4)


def test_layers_before_the_first_cut_run_once_for_all_schedules(replayed):
    replay, captured = replayed
    sizes = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0]))) for layer in replay.family.layers
    ]
    plans = torch.tensor([(1.0, 1.0, 0.5, 0.2), (1.0, 1.0, 1.0, 0.6)], requires_grad=True)
    replay.relaxed(captured, plans, captured.query[:, None], temperature=0.05).square().sum().backward()
    for hook in hooks:
        hook.remove()
    batch = len(captured.hidden)
    assert sizes == [batch, batch, 2 * batch, 2 * batch]
    assert (plans.grad[:, 1] == 0).all()
    assert (plans.grad[0, 2:] != 0).all()


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("hard", [False, True])
def test_the_last_layer_runs_for_the_rows_that_are_read(tiny_llava, padding, hard):
    """Rows in the middle of prompts of different lengths, one of them twice; against a last layer for all rows."""
    batch = build_batch([(2, 5), (4, 9)], [1, 2], padding=padding)
    replay, seen = Replay(tiny_llava, make_selector("fastv")), []
    first = replay.family.layers[-1].mlp.gate_proj
    hook = first.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    with observed_attention(replay.family):
        captured = replay.capture(batch)
        rows = torch.stack([captured.query - 2, captured.query, captured.query], dim=1)
        results = []
        for asked in (rows, torch.cat([rows, torch.zeros_like(rows[:, :1])], dim=1)):  # slot 0 asks for all of them
            ratios = torch.tensor([PLANS[0]], requires_grad=True)
            logits = replay.relaxed(captured, ratios, asked, temperature=0.1, hard=hard)[0, :, :3]
            (gradient,) = torch.autograd.grad(logits.square().sum(), ratios)
            results.append((logits, gradient))
    hook.remove()
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-3)
    assert seen[0] < seen[1]


def test_gradient_equals_finite_differences(monkeypatch):
    """Of the smooth forward; dropping negligible tokens is switched off, as it is a (small) jump.

    Norms compute in float32 whatever the model's type, hence the wide step and tolerance.
    """
    monkeypatch.setattr("vispco.engine.relaxed.NEGLIGIBLE", 0.0)
    model = build_tiny_llava(dtype=torch.float64)
    batch = build_batch([(2, 5)], [1], dtype=torch.float64)
    replay = Replay(model, make_selector("random"))
    with observed_attention(describe(model)):
        captured = replay.capture(batch)

        def loss(ratios):
            return replay.relaxed(captured, ratios[None], captured.query[:, None], temperature=0.1).square().sum()

        ratios = torch.tensor([1.0, 0.8, 0.55, 0.3], dtype=torch.float64, requires_grad=True)
        loss(ratios).backward()
        for layer in (1, 2, 3):
            step = torch.zeros(4, dtype=torch.float64)
            step[layer] = 4e-3
            with torch.no_grad():
                difference = (loss(ratios + step) - loss(ratios - step)) / 8e-3
            assert ratios.grad[layer].item() == pytest.approx(difference.item(), rel=0.01)


def test_negligible_tokens_stop_running_and_change_little(replayed, monkeypatch):
    replay, captured = replayed
    rows, ratios = captured.query[:, None], torch.tensor([PLANS[1]])
    running = []
    short = replay.relaxed(captured, ratios, rows, temperature=0.02, visit=lambda kept: running.append(kept.tolist()))
    monkeypatch.setattr("vispco.engine.relaxed.NEGLIGIBLE", 0.0)
    whole = replay.relaxed(captured, ratios, rows, temperature=0.02)
    assert running[0] > running[1] > running[2]
    assert NEGLIGIBLE > 0
    assert (short - whole).abs().max() < 0.2 * (whole - replay.run(captured, (1.0,) * 4, rows)).abs().max()


@pytest.mark.parametrize("kind", ["causal", "boolean"])
def test_policy_attention_equals_an_explicit_reference(kind):
    """Values and gradients in float64 against softmax times weight, normalised again."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    policy = torch.rand(2, 7, dtype=torch.float64, requires_grad=True)
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    mask = None if kind == "causal" else (causal & torch.tensor([0, 1, 1, 1, 1, 1, 1], dtype=torch.bool))[None, None]
    ours = policy_attention(query, key, value, mask, policy, 0.3)
    visible = causal if mask is None else mask
    weights = (query @ key.transpose(2, 3) * 0.3).exp() * visible * policy[:, None, None]
    reference = (weights @ value / weights.sum(-1, keepdim=True).clamp(min=1e-300)).transpose(1, 2)
    torch.testing.assert_close(ours, reference, atol=1e-12, rtol=1e-10)
    inputs, coefficients = (query, key, value, policy), torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * coefficients).sum(), inputs),
        torch.autograd.grad((reference * coefficients).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_rows_without_a_visible_key_are_zero_with_a_finite_gradient():
    query, key, value = (torch.randn(1, 1, 3, 4, requires_grad=True) for _ in range(3))
    policy = torch.tensor([[0.0, 1.0, 1.0]], requires_grad=True)
    out = policy_attention(query, key, value, None, policy, 0.5)
    out.sum().backward()
    assert (out[0, 0] == 0).all()
    assert policy.grad.isfinite().all()
