"""Signals for selectors against full attention maps and hidden states of the stock eager model."""

import math
from typing import ClassVar

import pytest
import torch

from vispco.engine import prune
from vispco.engine.families import describe
from vispco.engine.prompt import prompt_end
from vispco.engine.signals import Tokens, find_question, question_decay, square_grid
from vispco.errors import ModelError
from vispco.selectors import REGISTRY, Scorer
from vispco.testing import MODELS, RAGGED, Case, SelectorCase
from vispco.testing.conformance import SINGLE

CUT = 2


class Spy(Scorer):
    """Keeps what it was shown."""

    needs = frozenset(
        {
            "last_row", "visual_row", "next_row", "unrotated_row", "question_rows", "question_heads",
            "question_decay", "self_mass", "cross_mass", "keys", "hidden", "normed",
            "embeddings", "sample_key",
        }
    )  # fmt: skip
    seen: ClassVar[list] = []

    def score(self, inputs):
        self.seen.append(inputs)
        return inputs.last_row


@pytest.fixture
def spy(monkeypatch):
    monkeypatch.setitem(REGISTRY, "spy", Spy)
    monkeypatch.setattr(Spy, "seen", [])
    return SelectorCase("spy")


def shown(case, cuts=1):
    """What the selector saw at its cut before layer CUT; stock maps and hidden states of every layer."""
    keep = (1.0,) * CUT + (0.5,) * (case.layers - CUT)
    with prune(case.net, case.config(keep)):
        case.net(**case.inputs)
    stock = case.net(**case.inputs, output_attentions=True, output_hidden_states=True)
    return Spy.seen[-1], stock.attentions, stock.hidden_states


def visual_rows(case, values):
    """Rows (sequence, ...) of every sample's visual tokens, in order."""
    return [value[mask] for value, mask in zip(values, case.visual, strict=True)]


def close(ours, reference, number):
    torch.testing.assert_close(ours[:number], reference.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("samples", [SINGLE, RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("name", list(MODELS))
def test_signals_are_those_of_the_full_maps(name, samples, spy):
    case = Case(MODELS[name], spy, "eager", samples=samples)
    inputs, maps, hidden = shown(case)
    last = prompt_end(case.real, case.visual, None)
    question, asked = find_question(case.visual, case.real, last)
    before, after = maps[CUT - 1], maps[CUT]
    for row, number in enumerate(case.visual.sum(dim=1).tolist()):
        if not number:
            continue
        mine = case.visual[row]
        slots = mine.nonzero()[:, 0]
        asking = question[row][asked[row]]
        assert torch.equal(asking, torch.arange(int(slots[-1]) + 1, int(last[row]) + 1)), "text after the last image"
        heads = before[row]
        close(inputs.last_row[row], heads[:, last[row]].mean(dim=0)[mine], number)
        close(inputs.visual_row[row], heads[:, slots[-1]].mean(dim=0)[mine], number)
        close(inputs.next_row[row], after[row][:, last[row]].mean(dim=0)[mine], number)
        rows = heads[:, asking].mean(dim=0)[:, mine]
        torch.testing.assert_close(
            inputs.question_rows[row, : len(asking), :number], rows.float(), atol=1e-5, rtol=1e-4
        )
        assert not inputs.question_rows[row, len(asking) :].any()
        each = heads[:, asking][:, :, mine]
        torch.testing.assert_close(
            inputs.question_heads[row, :, : len(asking), :number], each.float(), atol=1e-5, rtol=1e-4
        )
        assert not inputs.question_heads[row, :, len(asking) :].any()
        close(inputs.cross_mass[row], heads[:, asking].amax(dim=0).sum(dim=0)[mine], number)
        close(inputs.self_mass[row], heads.amax(dim=0)[slots].mean(dim=0)[mine], number)
        close(inputs.embeddings[row], hidden[0][row][mine], number)
        assert inputs.keys.shape[-1] == describe(case.net).decoder.config.head_dim * 2
        if name == "qwen3_vl":
            continue  # transformers records hidden states before DeepStack adds to them
        close(inputs.hidden[row], hidden[CUT][row][mine], number)
        close(inputs.question_hidden[row], hidden[CUT][row][asking], len(asking))
        close(inputs.normed[row], describe(case.net).norm(hidden[CUT][row])[mine], number)


def test_the_unrotated_row_has_no_positions_and_no_text(spy):
    """By hand for a Llama decoder: plain projections, a softmax over visual keys alone."""
    case = Case(MODELS["llava"], spy, "eager", samples=SINGLE)
    inputs, _, hidden = shown(case)
    layer = describe(case.net).layers[CUT]
    states = layer.input_layernorm(hidden[CUT])[0]
    query = layer.self_attn.q_proj(states)[-1].view(4, 12)
    key = layer.self_attn.k_proj(states).view(-1, 2, 12).repeat_interleave(2, dim=1)
    logits = torch.einsum("hd,nhd->hn", query, key)[:, case.visual[0]] * 12**-0.5
    torch.testing.assert_close(inputs.unrotated_row[0], logits.softmax(dim=-1).mean(dim=0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_decay_is_what_positions_make_of_equal_vectors(name, spy):
    """The stock layer whose queries and keys are all ones before rotary embedding, up to a constant per row."""
    case = Case(MODELS[name], spy, "eager", samples=RAGGED)
    inputs, _, _ = shown(case)
    attention = describe(case.net).layers[CUT].self_attn
    parts = [getattr(attention, part) for part in ("q_proj", "k_proj", "q_norm", "k_norm") if hasattr(attention, part)]
    hooks = [part.register_forward_hook(lambda module, args, output: torch.ones_like(output)) for part in parts]
    maps = case.net(**case.inputs, output_attentions=True).attentions[CUT]
    for hook in hooks:
        hook.remove()
    assert float(inputs.question_decay.std()) > 0.05
    for row in (0, 1, 3):
        mine, asking = case.visual[row], inputs.question_valid[row]
        slots = find_question(case.visual, case.real, prompt_end(case.real, case.visual, None))[0][row][asking]
        expected = maps[row, 0][slots][:, mine].log()
        ours = inputs.question_decay[row][asking][:, : int(mine.sum())]
        torch.testing.assert_close(ours - ours[:, :1], expected - expected[:, :1], atol=1e-4, rtol=1e-4)


def test_decay_by_hand():
    """Two of three pairs of dimensions are rotated, one by an angle of 1 per position and one by 0.1."""
    angles = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    slots = torch.tensor([[1]]), torch.tensor([[4]])
    tokens = Tokens(slots[0], torch.ones(1, 1).bool(), slots[1], torch.ones(1, 1).bool(), torch.tensor([4]))
    decay = question_decay((angles.cos()[None], angles.sin()[None]), tokens, 6)
    expected = (2 * math.cos(3.0) + 2 * math.cos(0.3) + 2) / math.sqrt(6)
    assert decay.item() == pytest.approx(expected)


def test_keys_are_those_of_the_cache(spy):
    """The cache of the unpruned model holds keys after rotary embedding."""
    case = Case(MODELS["llava"], spy, samples=SINGLE)
    inputs, _, _ = shown(case)
    stored = case.net(**case.inputs, use_cache=True).past_key_values.layers[CUT - 1].keys[0]
    expected = stored.transpose(0, 1).flatten(1)
    torch.testing.assert_close(inputs.keys[0], expected[case.visual[0]], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(inputs.question_keys[0], expected[-6:], atol=1e-6, rtol=1e-5)


def test_after_a_cut_signals_are_about_what_is_left(spy):
    case = Case(MODELS["llava"], spy, samples=SINGLE)
    with prune(case.net, case.config((1.0, 0.5, 0.5, 0.25))) as pruned:
        case.net(**case.inputs)
    with case.masked([*pruned.kept[:3], pruned.kept[2]]):
        eager = Case(MODELS["llava"], spy, "eager", samples=SINGLE)
        with eager.masked([*pruned.kept[:3], pruned.kept[2]]):
            maps = eager.net(**eager.inputs, output_attentions=True).attentions
    second = Spy.seen[1]
    left = pruned.kept[2][0]
    row = maps[2][0][:, -1].mean(dim=0)[case.visual[0]]
    assert second.valid.tolist() == [[True] * int(left.sum())], "a selector is shown what is left, and nothing else"
    torch.testing.assert_close(second.last_row[0], row[left], atol=1e-5, rtol=1e-4)
    whole = maps[2][0].amax(dim=0)[case.visual[0].nonzero()[:, 0][left]].mean(dim=0)[case.visual[0]]
    torch.testing.assert_close(second.self_mass[0], whole[left], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(second.embeddings[0], Spy.seen[0].embeddings[0][left], atol=0, rtol=0)


def test_grids_are_square():
    images = torch.tensor([[0] * 4 + [1] * 9, [0] * 4 + [0] * 9])
    alive = torch.tensor([[True] * 13, [True] * 4 + [False] * 9])
    grid = square_grid(images, alive)
    assert grid[0, :4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert grid[0, 4:].tolist() == [[row, column] for row in range(3) for column in range(3)]
    assert grid[1, :4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    with pytest.raises(ModelError, match="image of 3 visual tokens is no square"):
        square_grid(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool))
