"""The control "downsampled": smaller pictures before the vision tower, so fewer visual tokens, and nothing pruned.

All layers run on the fewer tokens, and text follows them without the gap in positions that pruning leaves. The tower
runs on smaller pictures too and saves FLOPs there; a budget is defined on the prefill of the language model alone, so
this saving is not credited.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vispco.capacity import within_memory
from vispco.cost import make_costs
from vispco.data import Sample
from vispco.engine import Replay, observed_attention
from vispco.engine.families import describe
from vispco.engine.hooks import Hook
from vispco.errors import ConfigError, DataError, ModelError
from vispco.evaluation.evaluator import BATCH, Evaluator
from vispco.evaluation.finite import check_finite
from vispco.evaluation.measure import Candidate, Provenance, basis_of, make_point
from vispco.evaluation.prompts import prepare
from vispco.evaluation.teacher import Quality, TeacherBatch
from vispco.frontier import Point
from vispco.schedule import SNAP
from vispco.selectors import make_selector

TABLES = ("clip_vision_model", "siglip_vision_model")
"""Towers of LLaVA with a square table of learned positions, which they can interpolate."""
ANY_RESOLUTION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families whose tower takes pictures of any size."""


@contextmanager
def smaller_images(model: Any, processor: Any, factor: float) -> Iterator[Any]:
    """A processor that makes pictures smaller, for use with ``model`` inside the block.

    LLaVA gets squares of ``factor`` times the patches per side, rounded half up and at least one. The image processor
    resizes and crops to them, and the tower interpolates its positions as transformers does: bicubic, corners not
    aligned. The Qwen families get ``factor`` times the rows and columns of visual tokens that each picture has at its
    full size, so that pictures below the processor's limit of pixels are made smaller as well.

    Nothing is left on the model, and the given processor is never changed.

    Parameters
    ----------
    model, processor
        From :func:`vispco.engine.load_checkpoint`.
    factor : float
        Fraction of a picture's height and width, above 0 and up to 1; visual tokens go with its square.

    Yields
    ------
    processor
        With the same tokenizer and prompt.

    Raises
    ------
    ConfigError
        If the factor is out of range.
    ModelError
        If the model's family is not one of those above.
    """
    if not 0.0 < factor <= 1.0:
        raise ConfigError(f"factor {factor} is outside 0..1; give the fraction of a picture's sides, above 0")
    family = describe(model)
    config, smaller = family.model.config, copy.copy(processor)
    tower: Any = config.vision_config
    if config.model_type in ANY_RESOLUTION:
        smaller.image_processor = _shrinking(processor.image_processor, factor)
        yield smaller
        return
    if config.model_type != "llava" or tower.model_type not in TABLES:
        raise ModelError(
            f"pictures cannot be made smaller for model type {config.model_type!r} with tower {tower.model_type!r}; "
            f"supported are llava with a CLIP or SigLIP tower, {', '.join(ANY_RESOLUTION)}"
        )
    whole = tower.image_size // tower.patch_size
    side = _scaled(whole, factor)
    if side < whole:  # a full-size picture may have pixels beyond its last patch, which stay as they are
        smaller.image_processor = _resized(processor.image_processor, side * tower.patch_size, tower.image_size)
    hook = family.base.vision_tower.register_forward_pre_hook(Hook(_interpolate), with_kwargs=True)  # type: ignore[union-attr]
    try:
        yield smaller
    finally:
        hook.remove()


def _scaled(length: int, factor: float) -> int:
    """``factor`` times ``length``, rounded half up, at least 1."""
    return max(1, math.floor(factor * length + 0.5 + SNAP))


def _interpolate(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "interpolate_pos_encoding": True}


def _resized(image_processor: Any, new: int, old: int) -> Any:
    """A copy whose sizes are ``new / old`` of what they were."""
    resized = copy.deepcopy(image_processor)
    for name in ("size", "crop_size"):
        sizes = dict(getattr(resized, name, None) or {})
        if sizes:
            setattr(resized, name, {key: round(value * new / old) for key, value in sizes.items() if value})
    return resized


def _shrinking(stock: Any, factor: float) -> Any:
    """A copy that makes each picture smaller before all else; ``stock`` says how large it is at its full size."""

    def shrink(images: Any, **kwargs: Any) -> Any:
        pictures, merge = _flat(images), stock.merge_size
        full = stock(pictures, **{**kwargs, "return_tensors": "pt"})["image_grid_thw"][:, 1:] // merge
        grids = [[_scaled(length, factor) for length in grid] for grid in full.tolist()]
        if grids == full.tolist():
            return stock(pictures, **kwargs)
        unit = stock.patch_size * merge
        small = [
            picture.convert("RGB").resize((columns * unit, rows * unit), stock.resample)
            for picture, (rows, columns) in zip(pictures, grids, strict=True)
        ]
        return stock(small, **{**kwargs, "do_resize": False})

    smaller, kind = copy.deepcopy(stock), type(stock)
    smaller.__class__ = type(kind.__name__, (kind,), {"__call__": staticmethod(shrink)})
    return smaller


def _flat(images: Any) -> list[Image.Image]:
    """The pictures of nested lists, in order."""
    if isinstance(images, list | tuple):
        return [picture for part in images for picture in _flat(part)]
    if not isinstance(images, Image.Image):
        raise DataError(f"a picture of type {type(images).__name__} cannot be made smaller; give PIL images")
    return [images]


@dataclass(frozen=True)
class Downsampled:
    """What smaller pictures give on an evaluator's samples.

    Attributes
    ----------
    quality : Quality
        KL from the unpruned model on full-size pictures, and score; samples in the evaluator's order.
    costs : dict of str to float
        Over those with full-size pictures.
    basis : dict of str to str
        What costs depend on besides.
    share : float
        Visual tokens over those of the full-size pictures.
    """

    quality: Quality
    costs: dict[str, float]
    basis: dict[str, str]
    share: float


def downsample(evaluator: Evaluator, factor: float, *, advance: Callable[[int], None] | None = None) -> Downsampled:
    """Evaluate the unpruned model on smaller pictures, the answers forced as everywhere.

    Parameters
    ----------
    evaluator : Evaluator
        Holds the samples and the unpruned model's answers on full-size pictures; its ledger is charged.
    factor : float
        See :func:`smaller_images`.
    advance : callable or None
        Called with the number of samples done, for a progress bar.
    """
    replay = Replay(evaluator.model, make_selector("random"))  # it chooses nothing, and wants no signals
    number, state = len(evaluator.samples), evaluator.state
    ends = list(accumulate((len(batch.rows) for batch in evaluator.batches), initial=0))
    spans = list(pairwise(ends))
    with (
        smaller_images(evaluator.model, evaluator.processor, factor) as smaller,
        observed_attention(replay.family),
        torch.no_grad(),
    ):

        def answer(unit: int) -> Tensor:
            samples: Sequence[Sample] = evaluator.samples[slice(*spans[unit])]
            answered = partial(_answered, evaluator, replay, smaller, samples, evaluator.batches[unit])
            return within_memory(answered, len(samples), BATCH)

        results = state.work(
            [evaluator.request("smaller pictures", *span, factor=factor) for span in spans],
            [4 * (last - first) for first, last in spans],
            answer,
            lambda unit: advance(spans[unit][1] - spans[unit][0]) if advance else None,
        )
        kl, score, text, visual = torch.cat([result.view(4, -1) for result in results], dim=1)
        if evaluator.official is not None:
            judge = partial(evaluator.official.scores, evaluator.model, smaller, evaluator.samples)
            request = evaluator.request("judge of smaller pictures", 0, number, factor=factor)
            [score] = state.work([request], [number], lambda _: torch.from_numpy(judge()))
    full = [size for batch in evaluator.batches for size in _sizes(batch.text_tokens, batch.captured.visual_tokens)]
    fewer = _sizes(text.long(), visual.long())
    spent, whole = (make_costs(evaluator.workload(tokens)) for tokens in (fewer, full))
    costs = {name: spent[name].unpruned / whole[name].unpruned for name in whole}
    evaluator.ledger.add_forwards(number * costs["flops"])
    share = sum(visual for _, visual in fewer) / sum(visual for _, visual in full)
    return Downsampled(Quality(kl.numpy(), score.numpy()), costs, basis_of(whole), share)


def _answered(
    evaluator: Evaluator, replay: Replay, smaller: Any, samples: Sequence[Sample], batch: TeacherBatch, size: int
) -> Tensor:
    """KL, score, text and visual tokens of ``size`` samples on smaller pictures; shape (4 * size,), float64."""
    samples, batch = samples[:size], batch.head(size)
    small = prepare(smaller, samples)
    captured = replay.capture(small.inputs, small.query)
    logits = replay.run(captured, (1.0,) * replay.layers, small.rows.to(captured.visual.device))
    rows = small.rows.shape[1]  # of a batch cut short, the longest answer may have gone
    known = replace(batch, targets=batch.targets[:, :rows], teacher=batch.teacher[:, :rows])
    visual = captured.visual_tokens
    kl = known.divergence(logits)
    check_finite("its KL on a smaller picture", kl, evaluator.model, samples)
    values = kl, evaluator.right(known, logits), small.prompt_tokens - visual.cpu(), visual
    return torch.cat([value.double().cpu() for value in values])


def _sizes(text: Tensor, visual: Tensor) -> list[tuple[int, int]]:
    return list(zip(text.tolist(), visual.tolist(), strict=True))


def measure_downsampled(
    evaluator: Evaluator,
    factors: Sequence[float],
    provenance: Provenance,
    *,
    split: str,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[Point, Quality]]:
    """Points of the control, one per factor, that may stand beside those of :func:`measure`.

    The ratios of such a point are the share of visual tokens that is left, the same in every layer.
    """
    measured = []
    for factor in factors:
        found = downsample(evaluator, factor, advance=advance)
        keep = (found.share,) * evaluator.shape.layers
        point = make_point(
            Candidate(f"downsampled b={found.costs['flops']:.3f}", "control", keep), found.quality, evaluator.samples,
            found.costs, provenance, basis=found.basis, split=split, selector="none",
        )  # fmt: skip
        measured.append((point, found.quality))
    return measured
