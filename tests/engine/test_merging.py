"""Merged tokens: sums by hand, sizes, and all that runs a layer twice."""

import pytest
import torch

from vispco.engine import Replay, observed_attention, prune
from vispco.engine.mixing import Mixing
from vispco.selectors import REGISTRY, Choice, Merger
from vispco.testing import MODELS, RAGGED, Case, SelectorCase
from vispco.testing.conformance import SINGLE, run_check


class Halves(Merger):
    """Keeps the first tokens; every other one goes into the last kept token before it in turn, by unequal weights."""

    needs = frozenset()
    seen: list = []  # noqa: RUF012

    def merge(self, inputs, counts):
        self.seen.append(inputs)
        places = inputs.valid.long().cumsum(dim=1) - 1
        kept = inputs.valid & (places < counts[:, None])
        rows = int(counts.max())
        target = torch.where(kept, places, places % counts.clamp(min=1)[:, None])
        weights = (target[:, None] == torch.arange(rows)[:, None]) & inputs.valid[:, None]
        weights = weights * (1.0 + places[:, None] % 3)
        return Choice(kept, (weights / weights.sum(dim=2, keepdim=True).clamp(min=1)).float())


@pytest.fixture
def halves(monkeypatch):
    monkeypatch.setitem(REGISTRY, "halves", Halves)
    monkeypatch.setattr(Halves, "seen", [])
    return SelectorCase("halves")


def test_sums_by_hand():
    kept = torch.tensor([[True, False, True, False], [False, True, False, False]])
    weights = torch.tensor([[[0.5, 0.5, 0, 0], [0, 0, 1, 2]], [[0, 3, 0, 0], [0, 0, 0, 0]]])
    values = torch.arange(10.0).view(2, 5, 1) + 10
    places = torch.tensor([[1, 2, 3, 4], [0, 1, 2, 3]])
    mixed = Mixing(Choice(kept, weights), None)(values, places)[..., 0]
    assert mixed.tolist() == [[10, 11.5, 12, 13 + 2 * 14, 14], [15, 48, 17, 18, 19]]
    sizes = Mixing(Choice(kept, weights), None).add_up(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]))
    assert sizes.tolist() == [[3, 2, 7, 4], [5, 6, 7, 8]]
    left = torch.tensor([[0, 2], [1, 3]])
    part = Mixing(Choice(kept, weights), left)(values, places)[..., 0]
    assert part.tolist() == [[10, 5.5, 12, 13, 14], [15, 48, 17, 18, 19]], "tokens that are gone have no part"


@pytest.mark.parametrize("check", ["drop_equals_mask", "decoding", "replay"])
@pytest.mark.parametrize("samples", [SINGLE, RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_merged_token_is_a_sum_everywhere(name, samples, check, halves):
    model = MODELS[name]
    run_check(check, Case(model, halves, model.backends[0], samples=samples, dtype=torch.float64))


@pytest.mark.parametrize("name", list(MODELS))
def test_merging_is_counted_and_knows_no_company(name, halves):
    model = MODELS[name]
    run_check("flops", Case(model, halves, model.backends[0], samples=SINGLE))
    run_check("batch_equals_singles", Case(model, halves, model.backends[0]))


def test_sizes_are_carried_through_cuts(halves):
    case = Case(MODELS["llava"], halves)
    with prune(case.net, case.config()):
        case.net(**case.inputs)
    first, *others = Halves.seen
    counts = case.visual.sum(dim=1)
    assert torch.equal(first.sizes.sum(dim=1).long(), counts)
    assert first.sizes.max() == 1
    assert others
    for later in others:
        own = later.sizes * later.valid
        assert torch.equal(own.sum(dim=1).long(), counts), "no token is lost"
        assert own.max() > 1


def test_what_was_merged_is_told(halves):
    case = Case(MODELS["llava"], halves, samples=SINGLE)
    with prune(case.net, case.config((1.0, 0.5, 0.5, 0.25))) as pruned:
        case.net(**case.inputs)
    total = int(case.visual.sum())
    assert [None if weights is None else tuple(weights.shape) for weights in pruned.merged] == [
        None,
        (1, total // 2, total),
        None,
        (1, total // 4, total),
    ]
    assert not pruned.merged[3][0][:, ~pruned.kept[2][0]].any(), "columns of tokens that were gone before"


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma3"])
def test_checkpointing_merges_again(name, reentrant, halves):
    gradients = []
    for checkpointing in (False, True):
        case = Case(MODELS[name], halves)
        net = case.model.build()
        if name == "qwen3_vl":
            for parameter in net.get_decoder().parameters():
                parameter.requires_grad_(True)
        else:
            net.requires_grad_(True)
        net.train()
        if checkpointing:
            net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            net.enable_input_require_grads()
        with prune(net, case.config()):
            logits = net(**case.inputs, use_cache=False).logits
            logits[:, -1].square().sum().backward()
        gradients.append([p.grad.clone() for p in net.get_decoder().layers.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-4, rtol=1e-4)


def test_a_search_by_gradient_is_refused(halves):
    case = Case(MODELS["llava"], halves)
    replay = Replay(case.net, Halves())
    with observed_attention(replay.family):
        captured = replay.capture(case.inputs)
        with pytest.raises(Exception, match="Halves chooses another set for another count"):
            replay.relaxed(captured, torch.tensor([[1.0, 0.5, 0.5, 0.5]]), captured.query[:, None], temperature=0.1)
