"""What every family, selector and backend has to pass: one function per promise of the engine.

A check raises ``AssertionError`` with what it found. It judges the engine by stock transformers alone: by the unpruned
model, by the unpruned model with keys masked, by its own result on one sample at a time, or by PyTorch's FLOP counter.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from vispco.config import ModelCard, PruningConfig
from vispco.cost import DecodeFlopCost, KvCost, count_flops
from vispco.engine import Replay, observed_attention, prune
from vispco.engine.families import describe
from vispco.engine.prefill import last_real
from vispco.engine.pruning import pruned_model
from vispco.engine.selftest import masked_keys, tokens_there
from vispco.engine.signals import find_question
from vispco.selectors import Choice, Nested, make_selector
from vispco.testing.merging import rewritten
from vispco.testing.models import MODELS, RAGGED, Sample, TinyModel
from vispco.testing.selectors import SELECTORS, SelectorCase

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-1}
"""Largest difference between equal computations, as a fraction of the largest logit.

Measured over the matrix: 4e-6 in float32; in bfloat16, which has 8 bits, 0.03 and with weighted keys 0.05.
"""

SINGLE = (Sample(3, 1, 6, seed=7),)
"""A batch of one."""

STEPS = 6
"""Tokens that checks of decoding generate."""

GREEDY: dict[str, Any] = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
"""Options of ``generate`` that give the likeliest text, and the logits that led to it."""


@dataclass(frozen=True)
class Case:
    """One cell of the matrix.

    Attributes
    ----------
    model : TinyModel
    selector : SelectorCase
    backend : str
    dtype : torch.dtype
    samples : tuple of Sample
    padding : {"left", "right"}
    """

    model: TinyModel
    selector: SelectorCase
    backend: str = "sdpa"
    dtype: torch.dtype = torch.float32
    samples: tuple[Sample, ...] = RAGGED
    padding: Literal["left", "right"] = "left"

    def __str__(self) -> str:
        """A name for test reports."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.model.name}-{self.selector.selector}-batch{len(self.samples)}-{self.backend}-{dtype}"

    @cached_property
    def net(self) -> Any:
        """The model under the backend, shared by all cases of its kind."""
        return _build(self.model.name, self.backend, self.dtype)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Model inputs of the batch."""
        return self.model.inputs(self.samples, self.padding, self.dtype)

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return len(describe(self.net).layers)

    @property
    def visual(self) -> Tensor:
        """Visual tokens; bool, shape (batch, sequence)."""
        return describe(self.net).visual_mask(self.inputs["input_ids"])

    @property
    def real(self) -> Tensor:
        """Tokens that are not padding; bool, shape (batch, sequence)."""
        return self.inputs["attention_mask"].bool()

    @property
    def tokens(self) -> tuple[int, int, int, int]:
        """Text and visual tokens, images, and text tokens after the last image; of a batch of one."""
        _, asked = find_question(self.visual, self.real, last_real(self.real))
        images = int((self.visual[0].int().diff(prepend=self.visual[0, :1].int()) == 1).sum())
        return int((self.real & ~self.visual).sum()), int(self.visual.sum()), images, int(asked.sum())

    def config(self, keep: Sequence[float] | None = None) -> PruningConfig:
        """A configuration for this model; three cuts, the last of them deep, if no schedule is given."""
        card = ModelCard(type=self.model.model_type, layers=self.layers)
        staged = (1.0, 0.7, 0.7, *(0.3,) * (self.layers - 4), 0.2)
        return PruningConfig(
            selector=self.selector.selector,
            selector_params=self.selector.params,
            keep=staged if keep is None else tuple(keep),
            model=card,
        )

    def there(self, kept: Sequence[Tensor]) -> list[Tensor]:
        """Tokens that run in each layer; bool, shape (batch, sequence)."""
        return tokens_there(self.visual, self.real, kept)

    @contextmanager
    def masked(self, kept: Sequence[Tensor], merged: Sequence[Tensor | None] = ()) -> Iterator[None]:
        """The stock model with dropped tokens masked as keys, and merged ones rewritten: what dropping has to equal."""
        family = describe(self.net)
        layers = list(family.layers)
        with (
            masked_keys(layers, self.there(kept)),
            rewritten(family.decoder, layers, self.visual, kept, merged),
        ):
            yield

    def check_close(self, ours: Tensor, reference: Tensor, what: str) -> None:
        """Equal within the tolerance of the dtype."""
        error = float((ours - reference).abs().max()) / max(1.0, float(reference.abs().max()))
        assert error <= TOLERANCE[self.dtype], f"{self}: {what}: relative error {error:.2g}"


@cache
def _build(name: str, backend: str, dtype: torch.dtype) -> Any:
    model = MODELS[name].build(dtype)
    model.set_attn_implementation({"text_config": backend})
    return model


class StayDouble(TorchFunctionMode):
    """Keeps float64 tensors in float64 where models go to float32 for accuracy (norms, softmax).

    Such a step turns a difference of 1e-16 into one of 1e-7, and hides whether anything else differs.
    """

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def run_check(name: str, case: Case) -> None:
    """Run a check of :data:`CHECKS`, in float64 without detours through float32.

    Raises
    ------
    AssertionError
        With the case and what was found.
    """
    with torch.no_grad(), StayDouble() if case.dtype == torch.float64 else nullcontext():
        CHECKS[name](case)


def check_keep_one(case: Case) -> None:
    """Keeping everything changes no bit, of one forward and of every step of decoding."""
    options = {**GREEDY, "max_new_tokens": 3}
    logits = case.net(**case.inputs).logits
    text = case.net.generate(**case.inputs, **options)
    with prune(case.net, case.config((1.0,) * case.layers)):
        assert torch.equal(case.net(**case.inputs).logits, logits), f"{case}: logits differ"
        ours = case.net.generate(**case.inputs, **options)
    assert torch.equal(ours.sequences, text.sequences), f"{case}: text differs"
    assert all(map(torch.equal, ours.logits, text.logits)), f"{case}: logits of decoding differ"


def check_drop_equals_mask(case: Case) -> None:
    """Dropping tokens equals masking their keys with all positions kept."""
    with prune(case.net, case.config()) as pruned:
        dropped = case.net(**case.inputs).logits
    assert all((kept.sum(dim=1) == count).all() for kept, count in zip(pruned.kept, pruned.kept_counts, strict=True))
    with case.masked(pruned.kept, pruned.merged):
        masked = case.net(**case.inputs).logits
    rows = case.there(pruned.kept)[-1]
    case.check_close(dropped[rows], masked[rows], "dropping is not masking")
    change = float((dropped[rows] - case.net(**case.inputs).logits[rows]).abs().max())
    assert change > 0.1, f"{case}: the schedule changes logits by {change:.2g} only, so that nothing was shown"


def check_batch_equals_singles(case: Case) -> None:
    """A sample in a ragged batch keeps the tokens, and has the logits, that it has alone.

    In bfloat16 scores are rounded so that the choice may differ; there the sample alone is given that of the batch.
    """
    if "keys" in make_selector(case.selector.selector, case.selector.params).needs:
        # A forward without position_ids counts padding on the left as positions, and rotated keys depend on those.
        case = replace(case, padding="right")
    with prune(case.net, case.config()) as pruned:
        together = case.net(**case.inputs).logits
    there = case.there(pruned.kept)[-1]
    for row, sample in enumerate(case.samples):
        number = int(case.visual[row].sum())
        own = [kept[row : row + 1, :number] for kept in pruned.kept]
        merged = [
            None if weights is None else weights[row : row + 1, : int(kept.sum()), :number]
            for kept, weights in zip(own, pruned.merged, strict=True)
        ]
        given = list(map(Choice, own, merged)) if case.dtype == torch.bfloat16 else None
        with pruned_model(case.net, case.config(), given) as single:
            alone = case.net(**case.model.inputs([sample], case.padding, case.dtype)).logits[0]
        assert all(map(torch.equal, own, single.kept)), f"{case}: sample {row} keeps other tokens in a batch"
        outside = any(bool(kept[row, number:].any()) for kept in pruned.kept)
        assert not outside, f"{case}: sample {row} keeps tokens of its neighbours"
        case.check_close(together[row][there[row]], alone[there[row][case.real[row]]], f"sample {row} differs")


def check_decoding(case: Case) -> None:
    """Text generated on the pruned cache is the text of the masked model; cache lengths follow the schedule."""
    # A random model may well say an image's placeholder, which stock models refuse to read again without a cache.
    placeholders = list(describe(case.net).visual_ids)
    options = {**GREEDY, "max_new_tokens": STEPS, "suppress_tokens": placeholders}
    with prune(case.net, case.config()) as pruned:
        prompt = case.net(**case.inputs, use_cache=True).past_key_values
        kv_bytes = pruned.kv_bytes
        ours = case.net.generate(**case.inputs, **options)
        uncached = case.net.generate(**case.inputs, **options, use_cache=False)
    with case.masked(pruned.kept, pruned.merged):
        masked = case.net.generate(**case.inputs, **options)
        masked_uncached = case.net.generate(**case.inputs, **options, use_cache=False)
    _check_text(case, ours, masked, "the masked model")
    # Old releases of PaliGemma say other things without a cache, stock or pruned.
    _check_text(case, uncached, masked_uncached, "the masked model without a cache")
    _check_cache(case, prompt, ours.past_key_values, pruned.kept_counts, kv_bytes)


def _check_text(case: Case, ours: Any, other: Any, name: str) -> None:
    """Equal logits at every step, while the text is the same: in bfloat16 near ties may part it."""
    same = torch.ones(len(case.samples), dtype=torch.bool)
    for step, (a, b) in enumerate(zip(ours.logits, other.logits, strict=True)):
        if not same.any():
            return
        case.check_close(a[same], b[same], f"logits of step {step} differ from {name}")
        same &= ours.sequences[:, step - STEPS] == other.sequences[:, step - STEPS]
        assert same.all() or case.dtype == torch.bfloat16, f"{case}: text differs from {name}"


def _check_cache(case: Case, prompt: Any, final: Any, counts: Tensor, kv_bytes: int) -> None:
    """Every layer holds what the schedule leaves, or its window; positions go on from the unpruned length."""
    text = (case.real & ~case.visual).sum(dim=1)
    # Shorter samples of a batch are filled up, so the longest decides. The last token is never fed back.
    widths: list[int] = (text + counts).amax(dim=1).tolist()
    for decoded, filled in ((0, prompt), (STEPS - 1, final)):
        for layer, (width, window) in enumerate(zip(widths, describe(case.net).windows, strict=True)):
            expected: int = width + decoded if window is None else min(width + decoded, window - 1)
            held = filled.layers[layer].keys.shape[-2]
            assert held == expected, f"{case}: layer {layer} holds {held} keys after {decoded} steps, not {expected}"
        length = filled.get_seq_length()
        assert length == case.real.shape[1] + decoded, f"{case}: positions go on from {length}"
    held = sum(part.numel() * part.element_size() for layer in prompt.layers for part in (layer.keys, layer.values))
    assert held == kv_bytes, f"{case}: the cache holds {held} bytes, {kv_bytes} were reported"
    if len(case.samples) == 1:  # fillers of ragged batches are no cost of the schedule
        priced = KvCost(case.net.config, [case.tokens], case.dtype).amount(case.config().keep)
        assert priced == held, f"{case}: the cache holds {held} bytes, {priced:g} were priced"


def check_flops(case: Case) -> None:
    """Counted FLOPs of one sample are those of PyTorch's counter within 0.1 %, unpruned and pruned.

    Signals count to the last product; of a selector's own distances the counter may see less than there is.
    """
    text, visual, images, asked = case.tokens
    selector = make_selector(case.selector.selector, case.selector.params)
    for keep in ((1.0,) * case.layers, case.config().keep):
        counted = _counted(case, keep, lambda: case.net(**case.inputs, logits_to_keep=1))
        ours = count_flops(case.net.config, text, visual, keep, selector.flops, images, asked).total
        # Distances are no matrix products to the counter, so a selector's own work may be more than it sees.
        own = count_flops(case.net.config, text, visual, keep, selector.own_flops, images, asked).selection
        assert (ours - own) * (1 - 1e-3) <= counted <= ours * (1 + 1e-3), (
            f"{case}: {ours:.6g} FLOPs, {own:.6g} of them the selector's own, where the counter sees {counted:.6g}"
        )


def check_decode_flops(case: Case) -> None:
    """Counted FLOPs of decoding one sample are those of PyTorch's counter within 0.1 %, unpruned and pruned."""

    def answer(tokens: int) -> Callable[[], Any]:
        return lambda: case.net.generate(**case.inputs, **GREEDY, max_new_tokens=tokens)

    for keep in ((1.0,) * case.layers, case.config().keep):
        counted = _counted(case, keep, answer(STEPS)) - _counted(case, keep, answer(1))
        ours = DecodeFlopCost(case.net.config, [case.tokens], STEPS - 1).amount(keep)
        assert abs(ours - counted) <= 1e-3 * ours, f"{case}: {ours:.6g} FLOPs, where the counter sees {counted:.6g}"


def _counted(case: Case, keep: Sequence[float], run: Callable[[], Any]) -> int:
    """FLOPs of decoder and head that PyTorch's counter sees in a run under a schedule."""
    counter = FlopCounterMode(display=False)
    with prune(case.net, case.config(keep)), sdpa_kernel(SDPBackend.MATH), counter:
        run()
    counts = {name.rsplit(".", 1)[-1]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    decoder = next(name for name, module in case.net.named_modules() if module is describe(case.net).decoder)
    return counts[decoder.rsplit(".", 1)[-1]] + counts["lm_head"]


def check_replay(case: Case) -> None:
    """What a search evaluates is what the configuration does: layer by layer, and with 0/1 weights instead of cuts."""
    keep = case.config().keep
    replay = Replay(case.net, make_selector(case.selector.selector, case.selector.params))
    with prune(case.net, case.config()):
        logits = case.net(**case.inputs).logits
    with observed_attention(replay.family):
        captured = replay.capture(case.inputs)
        rows = captured.query[:, None]
        expected = logits[torch.arange(len(logits)), captured.query]
        case.check_close(replay.run(captured, keep, rows)[:, 0], expected, "replayed logits differ")
        if not weights_keys(case.net) or not isinstance(replay.selector, Nested):
            return
        hard = replay.relaxed(captured, torch.tensor([keep]), rows, temperature=0.05, hard=True)[0, :, 0]
    case.check_close(hard, expected, "0/1 weights are not dropping")


def weights_keys(net: Any) -> bool:
    """Whether a model's attention can weight keys, which a search by gradient needs; a bound on its logits forbids."""
    return getattr(describe(net).decoder.config, "attn_logit_softcapping", None) is None


CHECKS: dict[str, Callable[[Case], None]] = {
    "keep_one": check_keep_one,
    "drop_equals_mask": check_drop_equals_mask,
    "batch_equals_singles": check_batch_equals_singles,
    "decoding": check_decoding,
    "replay": check_replay,
    "flops": check_flops,
    "decode_flops": check_decode_flops,
}
"""Checks by name."""


def matrix(dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)) -> list[Case]:
    """Variants of families x selectors x batches of one and of four ragged samples x backends x dtypes.

    Without the cells in which a selector needs a vision tower that the family does not tell of.
    """
    return [
        Case(model, selector, backend, dtype, samples)
        for model in MODELS.values()
        for selector in SELECTORS.values()
        if model.tower or not selector.needs_tower
        for samples in (SINGLE, RAGGED)
        for backend in model.backends
        for dtype in dtypes
    ]
