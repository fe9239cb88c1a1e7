"""Replaying captured inputs equals running the model."""

import pytest
import torch
from builders import build_batch

from vispco import ModelCard, PruningConfig, prune
from vispco.engine import Replay, observed_attention
from vispco.engine.families import describe
from vispco.errors import ModelError
from vispco.selectors import make_selector

CARD = ModelCard(type="llava", layers=4)


@pytest.mark.parametrize("selector", ["fastv", "random"])
@pytest.mark.parametrize("keep", [(1.0, 1.0, 1.0, 1.0), (1.0, 0.5, 0.5, 0.2), (1.0, 1.0, 0.3, 0.0)])
def test_run_equals_prune(tiny_llava, ragged_batch, selector, keep):
    with prune(tiny_llava, PruningConfig(selector=selector, keep=keep, model=CARD)):
        pruned = tiny_llava(**ragged_batch).logits
    replay = Replay(tiny_llava, make_selector(selector))
    with observed_attention(describe(tiny_llava)):
        captured = replay.capture(ragged_batch)
        ours = replay.run(captured, keep, captured.query[:, None])[:, 0]
    assert torch.equal(ours, pruned[torch.arange(4), captured.query])


def test_the_query_row_may_stand_before_the_end(tiny_llava):
    """With answers appended, tokens are still scored by the last prompt token: nothing leaks from the answer."""
    prompt = build_batch([(2, 5)], [1])
    answer = torch.tensor([[11, 12]])
    forced = {**prompt, "input_ids": torch.cat([prompt["input_ids"], answer], dim=1)}
    forced["attention_mask"] = torch.ones_like(forced["input_ids"])
    last = torch.tensor([prompt["input_ids"].shape[1] - 1])
    keep, replay = (1.0, 0.5, 0.25, 0.25), Replay(tiny_llava, make_selector("fastv"))
    with observed_attention(describe(tiny_llava)):
        alone = replay.run(replay.capture(prompt), keep, last[:, None])
        together = replay.run(replay.capture(forced, last), keep, last[:, None])
        leaking = replay.run(replay.capture(forced), keep, last[:, None])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(leaking, alone, atol=1e-3)


def test_selecting_samples(tiny_llava, ragged_batch):
    replay, keep = Replay(tiny_llava, make_selector("fastv")), (1.0, 0.5, 0.5, 0.2)
    index = torch.tensor([3, 0, 3])
    with observed_attention(describe(tiny_llava)):
        captured = replay.capture(ragged_batch)
        rows = captured.query[:, None]
        some = replay.run(captured.select(index), keep, rows[index])
        torch.testing.assert_close(some, replay.run(captured, keep, rows)[index], atol=1e-5, rtol=1e-4)


def test_capturing_leaves_no_hook(tiny_llava, ragged_batch):
    replay = Replay(tiny_llava, make_selector("fastv"))
    with observed_attention(describe(tiny_llava)):
        replay.capture(ragged_batch)
    assert not tiny_llava.get_decoder().layers[0]._forward_pre_hooks


def test_other_backends_are_refused(tiny_llava):
    text = tiny_llava.config.get_text_config()
    stock = text._attn_implementation
    text._attn_implementation = "flex_attention"
    try:
        with pytest.raises(ModelError, match="flex_attention"), observed_attention(describe(tiny_llava)):
            pass
    finally:
        text._attn_implementation = stock
