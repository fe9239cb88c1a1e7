"""Pruning a stock model: exact, batched, without a trace."""

import copy

import pytest
import torch
from builders import IMAGE, VISUAL, build_batch, build_tiny_llava

from vispco import ModelCard, PruningConfig, prune
from vispco.errors import ConfigError, ModelError

CARD = ModelCard(type="llava", layers=4)
STAGED = (1.0, 0.5, 0.5, 0.2)
PLANS = [STAGED, (1.0, 1.0, 0.3, 0.0), (1.0, 0.75, 0.5, 0.25)]


def config(keep, selector="fastv", **params):
    return PruningConfig(selector=selector, selector_params=params, keep=keep, model=CARD)


def single(batch, index, images):
    """Sample ``index`` of a batch on its own, padding removed."""
    real = batch["attention_mask"][index].bool()
    alone = {"input_ids": batch["input_ids"][index][real][None]}
    alone["attention_mask"] = torch.ones_like(alone["input_ids"])
    first = sum(images[:index])
    if images[index]:
        alone["pixel_values"] = batch["pixel_values"][first : first + images[index]]
    return alone


def masked_logits(model, batch, kept):
    """Logits of the unpruned model in which dropped tokens are masked as keys: what dropping has to equal."""
    real = batch["attention_mask"].bool()
    visual = batch["input_ids"] == IMAGE
    width = real.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    hooks = []
    for layer, alive in zip(model.get_decoder().layers, kept, strict=True):
        there = real.clone()
        for row in range(len(real)):
            there[row, visual[row]] = alive[row, : int(visual[row].sum())]
        mask = (causal & there[:, None, :]) | torch.eye(width, dtype=torch.bool)

        def replace(module, args, kwargs, mask=mask):
            return args, {**kwargs, "attention_mask": mask[:, None]}

        hooks.append(layer.register_forward_pre_hook(replace, with_kwargs=True))
    try:
        return model(**batch).logits
    finally:
        for hook in hooks:
            hook.remove()


def surviving_rows(batch, kept):
    """Real tokens that run in the last layer; bool, shape (batch, sequence)."""
    rows = batch["attention_mask"].bool().clone()
    visual = batch["input_ids"] == IMAGE
    for row in range(len(rows)):
        rows[row, visual[row]] = kept[-1][row, : int(visual[row].sum())]
    return rows


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_keep_one_is_bit_equal(tiny_llava, padding, backend):
    model = copy.deepcopy(tiny_llava)
    model.set_attn_implementation({"text_config": backend})
    batch = build_batch([(2, 5), (1, 7)], [1, 2], padding)
    stock = model(**batch).logits
    hooked = []
    with prune(model, config((1.0,) * 4)):
        hooked.append(sum(len(layer._forward_pre_hooks) for layer in model.get_decoder().layers))
        assert torch.equal(model(**batch).logits, stock)
    assert hooked == [4]


def test_keep_one_generates_the_same_tokens(tiny_llava, ragged_batch):
    options = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    stock = tiny_llava.generate(**ragged_batch, **options)
    with prune(tiny_llava, config((1.0,) * 4)):
        ours = tiny_llava.generate(**ragged_batch, **options)
    assert torch.equal(ours.sequences, stock.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, stock.logits, strict=True))


@pytest.mark.parametrize("keep", PLANS)
@pytest.mark.parametrize("selector", ["fastv", "random"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_dropping_equals_masking(tiny_llava, keep, selector, padding):
    batch = build_batch([(2, 5), (1, 7), (3, 4), (2, 9)], [1, 2, 0, 1], padding)
    with prune(tiny_llava, config(keep, selector)) as pruned:
        dropped = tiny_llava(**batch).logits
    expected = masked_logits(tiny_llava, batch, pruned.kept)
    rows = surviving_rows(batch, pruned.kept)
    torch.testing.assert_close(dropped[rows], expected[rows], atol=1e-5, rtol=1e-4)
    unpruned = tiny_llava(**batch).logits
    assert (dropped[rows] - unpruned[rows]).abs().max() > 0.1, "the plan changes nothing, so the test shows nothing"


def test_dropping_equals_masking_in_float64():
    model = build_tiny_llava(dtype=torch.float64)
    batch = build_batch([(2, 5), (1, 7)], [1, 2], dtype=torch.float64)
    with prune(model, config(STAGED)) as pruned:
        dropped = model(**batch).logits
    rows = surviving_rows(batch, pruned.kept)
    expected = masked_logits(model, batch, pruned.kept)
    torch.testing.assert_close(dropped[rows], expected[rows], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("selector", ["fastv", "random"])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("keep", PLANS[:2])
def test_batch_equals_singles(tiny_llava, ragged_batch, keep, selector, backend):
    model = copy.deepcopy(tiny_llava)
    model.set_attn_implementation({"text_config": backend})
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    images = [1, 2, 0, 1]
    with prune(model, config(keep, selector)) as pruned:
        together = model.generate(**ragged_batch, **options)
        kept = pruned.kept
        for index, count in enumerate(images):
            alone = model.generate(**single(ragged_batch, index, images), **options)
            for layer in range(4):
                wide = kept[layer][index]
                assert torch.equal(wide[: count * VISUAL], pruned.kept[layer][0])
                assert not wide[count * VISUAL :].any()
            assert torch.equal(alone.sequences[0, -6:], together.sequences[index, -6:])
            for ours, theirs in zip(alone.logits, together.logits, strict=True):
                torch.testing.assert_close(ours[0], theirs[index], atol=1e-5, rtol=1e-4)


def test_counts_and_cache_lengths_follow_the_schedule(tiny_llava):
    batch = build_batch([(2, 5)], [1])
    text = 7
    with prune(tiny_llava, config(STAGED)) as pruned:
        out = tiny_llava.generate(**batch, max_new_tokens=6, do_sample=False, return_dict_in_generate=True)
    counts = [16, 8, 8, 3]
    assert pruned.kept_counts.tolist() == [[count] for count in counts]
    assert [int(alive.sum()) for alive in pruned.kept] == counts
    # The last of six generated tokens is never fed back.
    assert [layer.keys.shape[-2] for layer in out.past_key_values.layers] == [text + count + 5 for count in counts]
    assert out.past_key_values.get_seq_length() == text + 16 + 5


def test_kept_sets_are_nested(tiny_llava, ragged_batch):
    with prune(tiny_llava, config((1.0, 0.75, 0.5, 0.25))) as pruned:
        tiny_llava(**ragged_batch)
    for before, after in zip(pruned.kept, pruned.kept[1:], strict=False):
        assert not (after & ~before).any()


def test_generation_equals_a_forward_without_cache(tiny_llava):
    """Decoding on the pruned cache continues at the unpruned position."""
    batch = build_batch([(2, 5), (1, 7)], [1, 1])
    with prune(tiny_llava, config(STAGED)) as pruned:
        out = tiny_llava.generate(
            **batch, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        kept = pruned.kept
    grown = {**batch, "input_ids": out.sequences}
    new = out.sequences.shape[1] - batch["input_ids"].shape[1]
    grown["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones(2, new, dtype=torch.long)], dim=1)
    expected = masked_logits(tiny_llava, grown, kept)
    start = batch["input_ids"].shape[1] - 1
    for step, logits in enumerate(out.logits):
        torch.testing.assert_close(logits, expected[:, start + step], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"num_beams": 3, "num_return_sequences": 3}, {"num_return_sequences": 2}])
def test_beams_and_samples_score_like_a_recomputed_forward(tiny_llava, options):
    """Log-probabilities of the generated tokens, from the reordered or repeated cache, against a full forward."""
    batch = build_batch([(2, 5), (1, 7)], [1, 1])
    torch.manual_seed(0)
    with prune(tiny_llava, config(STAGED)) as pruned:
        out = tiny_llava.generate(
            **batch, max_new_tokens=4, do_sample="num_beams" not in options, output_scores=True, top_k=0,
            return_dict_in_generate=True, **options,
        )  # fmt: skip
        kept = pruned.kept
    number, width = options["num_return_sequences"], batch["input_ids"].shape[1]
    indices = getattr(out, "beam_indices", None)
    found = tiny_llava.compute_transition_scores(out.sequences, out.scores, indices, normalize_logits=indices is None)
    many = {key: value.repeat_interleave(number, dim=0) for key, value in batch.items()}
    many["input_ids"] = out.sequences
    many["attention_mask"] = torch.cat([many["attention_mask"], torch.ones(2 * number, 4, dtype=torch.long)], dim=1)
    # The prefill of a beam search or of several samples runs with the batch repeated already.
    alive = [layer if len(layer) == 2 * number else layer.repeat_interleave(number, dim=0) for layer in kept]
    logits = masked_logits(tiny_llava, many, alive)[:, width - 1 : -1].log_softmax(dim=-1)
    expected = logits.gather(2, out.sequences[:, width:, None])[..., 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_second_turn_on_a_pruned_cache(tiny_llava):
    batch = build_batch([(2, 5)], [1])
    more = torch.randint(10, 64, (1, 3), generator=torch.Generator().manual_seed(5))
    with prune(tiny_llava, config(STAGED)) as pruned:
        first = tiny_llava(**batch, use_cache=True)
        kept = pruned.kept
        second = tiny_llava(input_ids=more, past_key_values=first.past_key_values, use_cache=True).logits
    both = {**batch, "input_ids": torch.cat([batch["input_ids"], more], dim=1)}
    both["attention_mask"] = torch.ones_like(both["input_ids"])
    torch.testing.assert_close(second, masked_logits(tiny_llava, both, kept)[:, -3:], atol=1e-5, rtol=1e-4)


def test_logits_keep_the_callers_shape(tiny_llava, ragged_batch):
    with prune(tiny_llava, config(STAGED)):
        out = tiny_llava(**ragged_batch, labels=ragged_batch["input_ids"])
        last = tiny_llava(**ragged_batch, logits_to_keep=1).logits
    assert out.logits.shape[:2] == ragged_batch["input_ids"].shape
    torch.testing.assert_close(out.logits[:, -1:], last, atol=1e-5, rtol=1e-4)


def test_no_square_matrix_on_the_scoring_path(tiny_llava):
    """Scoring adds one attention row: nothing of n x n elements, which the flash kernel avoids as well."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.shapes = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(value, torch.Tensor):
                    self.shapes.append(value.shape)
            return out

    batch = build_batch([(4, 6)], [6])
    length = batch["input_ids"].shape[1]
    with prune(tiny_llava, config(STAGED)), Largest() as seen:
        tiny_llava(**batch)
    squares = [shape for shape in seen.shapes if list(shape).count(length) >= 2]
    assert len(seen.shapes) > 100
    assert not squares


class Boom(Exception):
    pass


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
def test_no_trace_after_an_exception(tiny_llava, ragged_batch, error):
    def state():
        modules = dict(tiny_llava.named_modules())
        hooks = {name: (len(m._forward_pre_hooks), len(m._forward_hooks)) for name, m in modules.items()}
        return hooks, tiny_llava.config.get_text_config()._attn_implementation

    before, stock = state(), tiny_llava(**ragged_batch).logits

    def interrupted():
        with prune(tiny_llava, config(STAGED)):
            tiny_llava(**ragged_batch)
            raise error

    with pytest.raises(error):
        interrupted()
    assert state() == before
    assert torch.equal(tiny_llava(**ragged_batch).logits, stock)


def test_nested_use_is_refused(tiny_llava):
    with prune(tiny_llava, config(STAGED)):  # noqa: SIM117
        with pytest.raises(ModelError, match="already being pruned"), prune(tiny_llava, config(STAGED)):
            pass


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"model": ModelCard(type="llava", layers=5), "keep": (1.0,) * 5}, ConfigError, "5 decoder layers"),
        ({"model": ModelCard(type="qwen2_vl", layers=4)}, ConfigError, "qwen2_vl"),
        ({"selector": "fastw"}, ConfigError, "fastv, random"),
        ({"selector_params": {"alpha": 1}}, ConfigError, "alpha"),
        ({"keep": (0.5,) * 4}, ConfigError, "before layer 0"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(tiny_llava, bad, error, message):
    fields = {"selector": "fastv", "keep": STAGED, "model": CARD, **bad}
    with pytest.raises(error, match=message), prune(tiny_llava, PruningConfig(**fields)):
        pass


def test_random_may_drop_before_the_first_layer(tiny_llava):
    batch = build_batch([(2, 5)], [1])
    with prune(tiny_llava, config((0.25,) * 4, "random")) as pruned:
        dropped = tiny_llava(**batch).logits
    assert pruned.kept_counts.flatten().tolist() == [4] * 4
    rows = surviving_rows(batch, pruned.kept)
    expected = masked_logits(tiny_llava, batch, pruned.kept)
    torch.testing.assert_close(dropped[rows], expected[rows], atol=1e-5, rtol=1e-4)


def test_unsupported_calls_are_refused(tiny_llava):
    batch = build_batch([(2, 5)], [1])
    with prune(tiny_llava, config(STAGED)):
        with pytest.raises(ModelError, match="input_ids"):
            tiny_llava(inputs_embeds=torch.zeros(1, 4, 48))
        with pytest.raises(ModelError, match="StaticCache"):
            tiny_llava.generate(**batch, max_new_tokens=2, cache_implementation="static")
        out = tiny_llava(**batch, use_cache=True)
        with pytest.raises(ModelError, match="after the first prefill"):
            tiny_llava(**batch, past_key_values=out.past_key_values)


def test_other_architectures_are_refused():
    class Config:
        model_type = "mystery"

    class Model:
        config = Config()

    with pytest.raises(ModelError, match=r"mystery.*supported types: llava"), prune(Model(), config(STAGED)):
        pass
