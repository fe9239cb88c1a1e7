"""Knobs of a selector that are learned with the schedule: the same forward pass, and a gradient through soft ranks."""

import pytest
import torch

from vispco.engine import Replay, observed_attention
from vispco.engine.relaxed import RelaxedPrefill
from vispco.selectors import make_selector
from vispco.testing import MODELS, RAGGED

KEEP = (1.0, 0.6, 0.6, 0.3)


@pytest.fixture(scope="module")
def model():
    return MODELS["llava"].build()


@pytest.fixture(scope="module")
def inputs():
    return MODELS["llava"].inputs(RAGGED)


def relaxed(model, inputs, alphas, learned, **options):
    """Logits under schedules KEEP, one per alpha: given as learned values, or one selector after the other."""
    if learned is not None:
        replay = Replay(model, make_selector("balanced_fastv", {"alpha": 0.33}))
        with observed_attention(replay.family):
            captured = replay.capture(inputs)
            ratios = torch.tensor([KEEP] * len(alphas))
            return replay.relaxed(
                captured, ratios, captured.query[:, None], temperature=0.1, knobs={"alpha": learned}, **options
            )
    rows = []
    for alpha in alphas:
        replay = Replay(model, make_selector("balanced_fastv", {"alpha": alpha}))
        with observed_attention(replay.family):
            captured = replay.capture(inputs)
            rows.append(
                replay.relaxed(captured, torch.tensor([KEEP]), captured.query[:, None], temperature=0.1, **options)[0]
            )
    return torch.stack(rows)


@pytest.mark.parametrize("hard", [False, True])
def test_the_forward_pass_is_that_of_fixed_knobs(model, inputs, hard):
    alphas = [0.0, 0.4, 1.0]
    fixed = relaxed(model, inputs, alphas, None, hard=hard)
    learned = relaxed(model, inputs, alphas, torch.tensor(alphas, requires_grad=True), hard=hard)
    torch.testing.assert_close(learned, fixed, atol=1e-5, rtol=1e-4)
    assert (fixed[0] - fixed[2]).abs().max() > 0.1, "the knob has to matter for this to show anything"


@pytest.mark.parametrize("hard", [False, True])
def test_every_schedule_has_the_gradient_of_its_own_knob(model, inputs, hard):
    alphas = torch.tensor([0.2, 0.7], requires_grad=True)
    logits = relaxed(model, inputs, [0.2, 0.7], alphas, hard=hard)
    (gradient,) = torch.autograd.grad(logits[0].square().sum(), alphas)
    assert gradient.isfinite().all()
    assert gradient[0] != 0
    assert gradient[1] == 0


def soft_ranks(scores, weights, width):
    """Rank of every token by the formula, one pair at a time."""
    return [
        sum(w / (1 + torch.exp(-(other - score) / width)) for other, w in zip(scores, weights, strict=True))
        for score in scores
    ]


def test_the_gradient_is_that_of_soft_ranks():
    """Against finite differences of the formula, in float64, on tokens of which one is gone."""
    importance = torch.tensor([0.1, 0.9, 0.4, 0.6], dtype=torch.float64)
    novelty = torch.tensor([0.8, 0.3, 0.5, 0.2], dtype=torch.float64)
    weights, temperature, alpha = [1.0, 0.5, 0.0, 0.7], 0.2, 0.35

    class Scores:
        valid = torch.tensor([[True, True, False, True]])

    def score_at(value):
        return value * importance + (1 - value) * novelty

    prefill = object.__new__(RelaxedPrefill)
    knob = torch.tensor([alpha], dtype=torch.float64, requires_grad=True)
    prefill.selector = make_selector("balanced_fastv").tuned(alpha=knob)
    prefill.selector.score = lambda inputs: score_at(prefill.selector.alpha)
    prefill.learns_knobs, prefill.temperature, prefill.left = True, temperature, None
    prefill.weight, prefill.alive = torch.tensor([weights], dtype=torch.float64), Scores.valid
    slope = prefill._knob_slope(Scores)
    assert torch.equal(slope, torch.zeros_like(slope)), "the forward pass keeps hard ranks"

    valid = score_at(alpha)[Scores.valid[0]]
    width = temperature * (valid.max() - valid.min())
    for token in (0, 1, 3):
        (ours,) = torch.autograd.grad(slope[0, token], knob, retain_graph=True)
        high, low = (soft_ranks(score_at(alpha + step), weights, width)[token] for step in (1e-6, -1e-6))
        assert ours.item() == pytest.approx(float(high - low) / 2e-6, rel=1e-5)
