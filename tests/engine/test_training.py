"""Gradients: through a pruned model with labels, and through weighted keys to the schedule."""

import pytest
import torch

from vispco.engine import Replay, observed_attention, prune
from vispco.engine.families import describe
from vispco.engine.prompt import IGNORED, prompt_end
from vispco.errors import ModelError
from vispco.selectors import make_selector
from vispco.testing import MODELS, RAGGED, SELECTORS, Case, Sample
from vispco.testing.conformance import StayDouble, weights_keys

FASTV, RANDOM = SELECTORS["fastv"], SELECTORS["random"]
FAMILIES = list(MODELS)


def trainable(name, dtype=torch.float32, **options):
    """A case whose model is not shared, in training mode."""
    case = Case(MODELS[name], FASTV, MODELS[name].backends[0], dtype, **options)
    vars(case)["net"] = MODELS[name].build(dtype).train().requires_grad_(True)
    return case


def labelled(case, answer=3):
    """The batch with labels on the last tokens of every sample."""
    labels = case.inputs["input_ids"].clone()
    labels[:, :-answer] = IGNORED
    return {**case.inputs, "labels": labels}


def gradients(net):
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_equal_those_of_the_masked_model(name):
    case = trainable(name)
    batch = labelled(case)
    with prune(case.net, case.config()) as pruned:
        ours = case.net(**batch).loss
        ours.backward()
    found = gradients(case.net)
    case.net.zero_grad()
    with case.masked(pruned.kept):
        theirs = case.net(**batch).loss
        theirs.backward()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    expected = gradients(case.net)
    decoder = [name for name in expected if ".layers." in name and "vision" not in name]
    assert len(decoder) > 10
    for name in decoder:
        scale = max(float(expected[name].abs().max()), 1e-3)
        assert float((found[name] - expected[name]).abs().max()) <= 2e-5 * scale, name
    assert (case.net(**batch).loss - ours).abs() > 1e-4, "the schedule does not change the loss"


def test_answers_do_not_choose_the_tokens_that_they_are_predicted_from(monkeypatch):
    """With labels a sample keeps what its prompt alone keeps."""
    case = Case(MODELS["llava"], FASTV, samples=(Sample(2, 1, 9, seed=1),))
    batch = labelled(case, answer=4)
    prompt = {key: value[:, :-4] if value.dim() == 2 else value for key, value in case.inputs.items()}
    with prune(case.net, case.config()) as pruned:
        case.net(**prompt)
        alone = pruned.kept
        case.net(**batch)
        forced = pruned.kept
        case.net(**case.inputs)
        leaking = pruned.kept
    assert all(map(torch.equal, alone, forced))
    assert not all(map(torch.equal, alone, leaking))


def test_the_end_of_the_prompt():
    real = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    visual = torch.tensor([[0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0]]).bool()
    labels = torch.full((4, 6), IGNORED)
    labels[0, 4:] = 7  # after a prompt of four places
    labels[1, 5] = 7  # on padding: no target
    labels[2, 3:] = 7  # right after the image: there is no prompt token between
    labels[3, 0:] = 7  # everything is a target
    assert prompt_end(real, visual, labels).tolist() == [3, 4, 5, 5]
    assert prompt_end(real, visual, None).tolist() == [5, 4, 5, 5]


def test_targets_after_dropped_tokens_are_left_out_and_said():
    """Every token is a target: those that follow a dropped token or padding have no logits to be judged by."""
    case = Case(MODELS["llava"], RANDOM)
    ids, real = case.inputs["input_ids"], case.real
    labels = ids.masked_fill(~real, IGNORED)
    with prune(case.net, case.config()) as pruned, pytest.warns(UserWarning, match="targets follow dropped tokens"):
        loss = case.net(**case.inputs, labels=labels).loss
    there = case.there(pruned.kept)
    with case.masked(pruned.kept):
        logits = case.net(**case.inputs).logits
    counted = there[-1][:, :-1] & real[:, 1:]
    assert counted.sum() < real[:, 1:].sum()
    expected = torch.nn.functional.cross_entropy(logits[:, :-1][counted], ids[:, 1:][counted])
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(labels, ids.masked_fill(~real, IGNORED)), "the caller's labels were changed"


def test_keep_one_leaves_the_loss_alone(recwarn):
    case = Case(MODELS["llava"], FASTV)
    labels = case.inputs["input_ids"].masked_fill(~case.real, IGNORED)
    stock = case.net(**case.inputs, labels=labels).loss
    with prune(case.net, case.config((1.0,) * case.layers)):
        assert torch.equal(case.net(**case.inputs, labels=labels).loss, stock)
    assert not [warning for warning in recwarn if "targets" in str(warning.message)]


# --- gradients of the schedule ---------------------------------------------------------------------------------------


def relaxed_loss(case, ratios, **options):
    replay = Replay(case.net, make_selector(case.selector.selector, case.selector.params))
    captured = replay.capture(case.inputs)
    logits = replay.relaxed(captured, ratios[None], captured.query[:, None], temperature=0.1, **options)
    return logits.float().square().mean() if logits.dtype == torch.bfloat16 else logits.square().mean()


def slopes(case, dtype=torch.float32, **options):
    """Gradient of the loss in the ratios; inside the block, where layers that run again are observed again."""
    ratios = torch.linspace(1.0, 0.3, case.layers, dtype=dtype).requires_grad_()
    with observed_attention(describe(case.net)):
        relaxed_loss(case, ratios, **options).backward()
    return ratios.grad


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "paligemma2"])
def test_the_schedules_gradient_equals_finite_differences(name, monkeypatch):
    """In float64, of the smooth forward: dropping negligible tokens is switched off, as it is a (small) jump."""
    monkeypatch.setattr("vispco.engine.relaxed.NEGLIGIBLE", 0.0)
    case = Case(MODELS[name], RANDOM, dtype=torch.float64, samples=RAGGED[:2])
    with StayDouble(), observed_attention(describe(case.net)):
        ratios = torch.linspace(1.0, 0.3, case.layers, dtype=torch.float64)
        exact = ratios.clone().requires_grad_()
        relaxed_loss(case, exact).backward()
        for layer in (1, case.layers - 1):
            step = torch.zeros(case.layers, dtype=torch.float64)
            step[layer] = 1e-5
            with torch.no_grad():
                difference = (relaxed_loss(case, ratios + step) - relaxed_loss(case, ratios - step)) / 2e-5
            assert exact.grad[layer].item() == pytest.approx(difference.item(), rel=1e-5)
    assert exact.grad[1:].abs().min() > 0


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma3"])
def test_checkpointing_changes_memory_not_gradients(name, hard):
    case = Case(MODELS[name], FASTV)
    plain, stored = slopes(case, hard=hard), slopes(case, hard=hard, checkpointing=True)
    assert plain.abs().max() > 0
    torch.testing.assert_close(stored, plain, atol=0, rtol=1e-6)


def test_checkpointing_stores_inputs_of_layers_only():
    case = Case(MODELS["llava"], RANDOM)
    sizes = []
    for checkpointing in (False, True):
        saved = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.numel()) or t, lambda t: t)
        with hooks, observed_attention(describe(case.net)):
            relaxed_loss(case, torch.linspace(1.0, 0.3, case.layers).requires_grad_(), checkpointing=checkpointing)
        sizes.append(sum(saved))
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("hard", [False, True])
def test_bfloat16_gradients_point_the_same_way(hard):
    exact = slopes(Case(MODELS["llava"], RANDOM), hard=hard)[1:]
    rounded = slopes(Case(MODELS["llava"], RANDOM, dtype=torch.bfloat16), hard=hard)[1:]
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.95


def test_what_cannot_be_weighted_is_refused():
    float16 = Case(MODELS["llava"], RANDOM, dtype=torch.float16)
    with pytest.raises(ModelError, match="float16 underflows to NaN"):
        slopes(float16)
    bounded = Case(MODELS["paligemma2"], RANDOM, "eager")
    assert not weights_keys(bounded.net)
    with pytest.raises(ModelError, match="softcap"):
        slopes(bounded)


def test_straight_through_is_hard_forward_and_soft_backward():
    """The forward value is that of dropping; its slope is the soft rank's, of the same sign as removing tokens."""
    case = Case(MODELS["llava"], RANDOM)
    keep = case.config().keep
    replay = Replay(case.net, make_selector("random", {"seed": 3}))
    with observed_attention(describe(case.net)):
        captured = replay.capture(case.inputs)
        rows = captured.query[:, None]
        ratios = torch.tensor([keep]).requires_grad_()
        hard = replay.relaxed(captured, ratios, rows, temperature=0.1, hard=True)
        torch.testing.assert_close(hard[0], replay.run(captured, keep, rows), atol=1e-5, rtol=1e-5)
        hard.sum().backward()
    assert torch.isfinite(ratios.grad).all()
    assert ratios.grad[0, [1, 3]].abs().min() > 0
