"""Attention backends: sdpa, eager and flash kernels agree, and nothing quadratic is made to score tokens."""

import copy

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vispco import PruningConfig, prune
from vispco.engine import Replay
from vispco.engine.attention import observed_attention
from vispco.engine.families import REGISTRY, describe
from vispco.engine.pruning import pruned_model
from vispco.errors import ModelError
from vispco.selectors import Choice, make_selector
from vispco.testing import MODELS, SELECTORS, Case, Sample
from vispco.testing.conformance import GREEDY, SINGLE

FASTV, RANDOM = SELECTORS["fastv"], SELECTORS["random"]


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if len(model.backends) > 1])
def test_eager_and_sdpa_agree_on_given_tokens(name):
    case, eager = (Case(MODELS[name], RANDOM, backend) for backend in ("sdpa", "eager"))
    with prune(case.net, case.config()) as pruned:
        ours = case.net(**case.inputs).logits
    with pruned_model(eager.net, eager.config(), given=list(map(Choice, pruned.kept))):
        theirs = eager.net(**eager.inputs).logits
    rows = case.there(pruned.kept)[-1]
    case.check_close(ours[rows], theirs[rows], "backends differ")


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if len(model.backends) > 1])
def test_backends_choose_alike_where_scores_are_clear(name):
    """A choice is discrete: it may differ between backends only where scores are as good as equal."""
    case, eager = (Case(MODELS[name], FASTV, backend) for backend in ("sdpa", "eager"))
    maps = eager.net(**eager.inputs, output_attentions=True).attentions
    last, chosen, agreed = case.inputs["input_ids"].shape[1] - 1, 0, 0
    for layer in range(1, case.layers):
        keep = [1.0] * layer + [0.5] * (case.layers - layer)
        kept = []
        for cell in (case, eager):
            with prune(cell.net, cell.config(keep)) as pruned:
                cell.net(**cell.inputs)
            kept.append(pruned.kept[layer])
        row = maps[layer - 1][:, :, last].float().mean(dim=1)
        for sample, (ours, theirs) in enumerate(zip(*kept, strict=True)):
            scores = row[sample][case.visual[sample]]
            ours, theirs = ours[: len(scores)], theirs[: len(scores)]
            chosen, agreed = chosen + int(ours.sum()), agreed + int((ours & theirs).sum())
            apart = scores[ours != theirs]
            assert len(apart) == 0 or apart.max() - apart.min() < 1e-6, f"layer {layer}, sample {sample}"
    assert agreed >= 0.99 * chosen > 0


@pytest.fixture
def flash(monkeypatch):
    """A stand-in for a flash kernel: takes padding masks (batch, keys), gets order from tokens alone, counts calls."""
    calls = []

    def kernel(module, query, key, value, attention_mask, scaling=None, is_causal=None, position_ids=None, **kwargs):
        assert module.config._attn_implementation == "flash_attention_2", "the kernel is chosen by this name"
        assert attention_mask is None or attention_mask.dim() == 2
        assert not [name for name in kwargs if name.startswith("vispco")]
        calls.append((query.shape[2], None if attention_mask is None else attention_mask.shape, position_ids))
        tokens, keys = query.shape[2], key.shape[2]
        visible = torch.ones(tokens, keys, dtype=torch.bool).tril(keys - tokens)[None]
        if attention_mask is not None:
            visible = visible & attention_mask[:, None].bool()
        visible = visible | torch.zeros(tokens, keys, dtype=torch.bool).fill_diagonal_(True) * (tokens == keys)
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=visible[:, None], scale=scaling)
        return out.transpose(1, 2), None

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", kernel)
    assert ALL_ATTENTION_FUNCTIONS["flash_attention_2"] is kernel
    return calls


def with_flash(case):
    """The case's model under the stand-in; the real kernel is not asked for."""
    net = copy.deepcopy(case.net)
    describe(net).decoder.config._attn_implementation = "flash_attention_2"
    other = Case(case.model, case.selector, samples=case.samples, padding=case.padding)
    vars(other)["net"] = net
    return other


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "idefics3"])
@pytest.mark.parametrize("samples", [SINGLE, None], ids=["single", "ragged"])
def test_flash_and_sdpa_agree(name, samples, flash):
    case = Case(MODELS[name], FASTV, **({"samples": samples} if samples else {}))
    other = with_flash(case)
    options = {**GREEDY, "max_new_tokens": 4, "suppress_tokens": list(describe(case.net).visual_ids)}
    with prune(case.net, case.config()) as pruned:
        text = case.net.generate(**case.inputs, **options)
    with prune(other.net, other.config()) as again:
        ours = other.net.generate(**other.inputs, **options)
    assert all(map(torch.equal, pruned.kept, again.kept)), "another choice under flash"
    assert torch.equal(ours.sequences, text.sequences)
    for a, b in zip(ours.logits, text.logits, strict=True):
        case.check_close(a, b, "flash and sdpa differ")
    prefill = flash[: case.layers]
    assert [tokens for tokens, _, _ in prefill] != [prefill[0][0]] * case.layers, "the kernel saw no dropped token"
    assert all(position is None for tokens, _, position in prefill if tokens < prefill[0][0])


def test_flash_at_keep_one_is_bit_equal(flash):
    case = with_flash(Case(MODELS["llava"], FASTV))
    stock = case.net(**case.inputs).logits
    with prune(case.net, case.config((1.0,) * case.layers)):
        assert torch.equal(case.net(**case.inputs).logits, stock)


def test_flash_cannot_weight_keys(flash):
    case = with_flash(Case(MODELS["llava"], FASTV))
    replay = Replay(case.net, make_selector("fastv"))
    with observed_attention(replay.family):
        captured = replay.capture(case.inputs)
        with pytest.raises(ModelError, match="load the model with sdpa"):
            replay.relaxed(captured, torch.ones(1, case.layers), captured.query[:, None], temperature=0.1)


@pytest.mark.parametrize(
    ("name", "backend", "reason"),
    [
        ("llava", "flex_attention", "block masks cannot be gathered.*sdpa, eager"),
        ("gemma3", "flash_attention_2", "masks over pairs of tokens"),
        ("paligemma", "flash_attention_2", "masks over pairs of tokens"),
        ("llava", "paged|sdpa", "cannot be pruned; load the model with one of sdpa"),
    ],
)
def test_backends_that_cannot_be_exact_are_refused(name, backend, reason):
    case = Case(MODELS[name], FASTV)
    net = copy.deepcopy(case.net)
    text = describe(net).decoder.config
    text._attn_implementation = backend
    with pytest.raises(ModelError, match=reason), prune(net, case.config()):
        pass
    assert text._attn_implementation == backend


def test_flash_with_sliding_windows_is_refused_in_any_family():
    """Flash kernels count their window in neighbours, which are further apart once tokens are dropped."""
    net = MODELS["qwen2_vl"].build()
    text = describe(net).decoder.config
    text.layer_types, text.sliding_window = ["sliding_attention"] * 4, 8
    assert "flash_attention_2" in REGISTRY["qwen2_vl"].backends
    assert describe(net).backends == ("sdpa", "eager")


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor):
                self.seen.append(tuple(value.shape))
        return out

    def squares(self, *widths):
        """Shapes with two dimensions of a sequence's length: attention maps and masks over pairs of tokens."""
        return [shape for shape in self.seen if sum(dim in widths for dim in shape) >= 2]


LONG = (Sample(4, 3, 9, seed=2),)
"""A prompt whose lengths, before and after every cut, are no size of a tiny model's weights."""

PAIRWISE = {"gemma3", "paligemma", "paligemma2"}
"""Families whose stock prefill has masks over pairs of tokens."""


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MODELS if name not in PAIRWISE])
def test_no_square_matrix_on_the_scoring_path(name):
    """One attention row scores tokens: nothing of n x n elements is made, before a cut or after it."""
    case = Case(MODELS[name], FASTV, samples=LONG)
    length = case.inputs["input_ids"].shape[1]
    with prune(case.net, case.config()) as pruned, Shapes() as shapes:
        case.net(**case.inputs)
    text = int((case.real & ~case.visual).sum())
    widths = {length, *(text + count for count in pruned.kept_counts[:, 0].tolist())}
    assert len(widths) == 3
    assert len(shapes.seen) > 500
    assert not shapes.squares(*widths)


def test_an_attention_map_would_be_seen():
    case = Case(MODELS["llava"], FASTV, "eager", samples=LONG)
    with Shapes() as shapes:
        case.net(**case.inputs)
    assert shapes.squares(case.inputs["input_ids"].shape[1])


@pytest.mark.parametrize("name", MODELS)
def test_the_row_that_scores_is_that_of_the_full_attention_map(name):
    """Against ``output_attentions`` of the eager model: masks, windows and bounds of the logits included."""
    case = Case(MODELS[name], FASTV, "eager")
    maps = case.net(**case.inputs, output_attentions=True).attentions
    layers, last = case.layers, case.inputs["input_ids"].shape[1] - 1
    for layer in range(1, layers):
        keep = [1.0] * layer + [0.5] * (layers - layer)
        with prune(case.net, case.config(keep)) as pruned:
            case.net(**case.inputs)
        row = maps[layer - 1][:, :, last].float().mean(dim=1)
        for sample, kept in enumerate(pruned.kept[layer]):
            scores = row[sample][case.visual[sample]]
            chosen = scores[kept[: len(scores)]]
            others = scores[~kept[: len(scores)]]
            if len(others) and int((case.visual[sample].int().diff() == 1).sum()) == 1:  # one image, one ranking
                assert chosen.min() >= others.max() - 1e-6, f"layer {layer}, sample {sample}"


def test_a_configuration_runs_under_every_backend_it_was_not_made_for():
    keep = (1.0, 0.5, 0.5, 0.25)
    for backend in ("sdpa", "eager"):
        case = Case(MODELS["llava"], FASTV, backend)
        config = PruningConfig.from_json(case.config(keep).to_json())
        with prune(case.net, config) as pruned:
            case.net(**case.inputs)
        assert pruned.kept_counts[3].tolist() == [4, 8, 0, 4]
