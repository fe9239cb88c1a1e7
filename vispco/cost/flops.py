"""Floating-point operations of the language model, exact and soft by one formula.

A multiply-add counts 2, attention is counted in full (every query against every key, as
``torch.utils.flop_counter`` does), norms, rotary embeddings and softmax are not counted. For a layer with ``n`` tokens,
hidden width ``d``, ``H`` query and ``G`` key/value heads of ``D`` dimensions and a gated MLP of width ``m``::

    projections = 2 n d D (2 H + 2 G)        query, output, key, value
    attention   = 4 n^2 H D                  scores and weighted sum
    mlp         = 6 n d m                    gate, up, down
    lm_head     = 2 d V                      logits of the last position, all that ``generate`` computes
    selection   = 2 n H D                    per attention row that a selector reads before a cut; see :class:`Cut`
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vispco.cost.base import Cost, Cut, Prompt, Selection
from vispco.cost.shape import DecoderShape, sliding_windows
from vispco.schedule import check_keep


@dataclass(frozen=True)
class FlopReport:
    """FLOPs of one prefill, in parts; float64."""

    projections: float
    attention: float
    mlp: float
    lm_head: float
    selection: float
    unpruned: float

    @property
    def total(self) -> float:
        """All parts together."""
        return self.projections + self.attention + self.mlp + self.lm_head + self.selection

    @property
    def ratio(self) -> float:
        """Share of the unpruned prefill: what a budget limits."""
        return self.total / self.unpruned


def count_flops(
    config: Any,
    text_tokens: int,
    visual_tokens: int,
    keep: Sequence[float],
    selection: Selection = 0,
    images: int = 1,
    question: int | None = None,
) -> FlopReport:
    """Exact prefill FLOPs of the language model under a schedule.

    Parameters
    ----------
    config
        Hugging Face configuration of the model.
    text_tokens, visual_tokens : int
        Tokens of one sample, without padding.
    keep : sequence of float, length layers
    selection : int or callable
        What choosing tokens costs at every cut: attention rows (1 for FastV, 0 for Random), or FLOPs from a
        :class:`Cut` (``make_selector(name).flops``).
    images : int
        Images of the sample, each of which keeps a token.
    question : int or None
        Text tokens after the last image; all of them if None.

    Raises
    ------
    ConfigError
        If ``keep`` is not a schedule for this model.
    """
    prompt = Prompt(text_tokens, visual_tokens, images, question)
    counts = prompt.counts(check_keep(keep, DecoderShape.of(config).layers))
    return _report(DecoderShape.of(config), _deepstack(config), prompt, counts, selection)


def _report(
    shape: DecoderShape, deepstack: int, prompt: Prompt, counts: Sequence[int], selection: Selection
) -> FlopReport:
    tokens = [float(prompt.text + count) for count in counts]
    asked = float(prompt.text if prompt.question is None else prompt.question)
    cuts = [
        Cut(shape, float(prompt.text + had), float(had), float(kept), asked, 1 + max(0, deepstack - layer))
        for layer, (had, kept) in enumerate(pairwise([prompt.visual, *counts]))
        if kept < had
    ]
    return FlopReport(
        projections=sum(map(shape.projections, tokens)),
        attention=sum(map(shape.attention, tokens)),
        mlp=sum(map(shape.mlp_cost, tokens)),
        lm_head=shape.lm_head,
        selection=sum(selection * cut.attention_row if isinstance(selection, int) else selection(cut) for cut in cuts),
        unpruned=shape.layers * shape.layer(float(prompt.total)) + shape.lm_head,
    )


def _deepstack(config: Any) -> int:
    """Number of decoder layers to whose output the vision tower adds."""
    return len(getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ())


class FlopCost(Cost):
    """FLOPs of the prefill; see :func:`count_flops`.

    Parameters
    ----------
    config, tokens
        As of :class:`vispco.cost.base.Cost`.
    selection : int or callable
        What choosing tokens costs; see :func:`count_flops`.
    """

    name, unit = "flops", "FLOPs"

    def __init__(self, config: Any, tokens: Sequence[tuple[int, ...]], selection: Selection = 0):
        self.selection, self._deepstack = selection, _deepstack(config)
        super().__init__(config, tokens, selection=selection)

    def spent(self, prompt: Prompt, counts: Sequence[int]) -> float:
        """FLOPs of one prefill, selection included."""
        return _report(self.shape, self._deepstack, prompt, counts, self.selection).total

    def soft_spent(self, visual: Tensor) -> Tensor:
        """Without selection."""
        return self.shape.layer(self.text + visual).sum(dim=-2) + self.shape.lm_head


class DecodeFlopCost(Cost):
    """FLOPs of decoding ``new_tokens`` tokens after the one that the prefill gives.

    Token ``t`` (from 0) runs every layer once and reads ``k + t + 1`` keys of a layer that holds ``k`` after the
    prefill, itself included; a sliding window of ``W`` lets it read ``W`` at most::

        new_tokens * (L (projections(1) + mlp(1)) + lm_head) + sum over t, layers of 4 H D min(k + t + 1, W)

    Parameters
    ----------
    config, tokens
        As of :class:`vispco.cost.base.Cost`.
    new_tokens : int
    """

    name, unit = "decode_flops", "FLOPs"

    def __init__(self, config: Any, tokens: Sequence[tuple[int, ...]], new_tokens: int):
        self.new_tokens, self.windows = new_tokens, sliding_windows(config)
        super().__init__(config, tokens, new_tokens=new_tokens)

    @property
    def basis(self) -> str:
        """Number of new tokens."""
        return f"{self.new_tokens} new tokens"

    def spent(self, prompt: Prompt, counts: Sequence[int]) -> float:
        """FLOPs of decoding one answer."""
        pairs = zip(counts, self.windows, strict=True)
        keys = sum(self._keys_read(prompt.text + count, window) for count, window in pairs)
        return self._fixed + self.shape.attention(1.0) * keys

    def _keys_read(self, held: int, window: int | None) -> int:
        """Keys that all new tokens read of one layer: one more each time, until the window is full."""
        growing = self.new_tokens if window is None else min(max(window - held, 0), self.new_tokens)
        full = (self.new_tokens - growing) * (window or 0)
        return growing * held + growing * (growing + 1) // 2 + full

    def soft_spent(self, visual: Tensor) -> Tensor:
        """The same for fractions of tokens."""
        steps = torch.arange(1, self.new_tokens + 1, dtype=torch.float64)
        seen = (self.text + visual)[..., None] + steps
        limits = torch.tensor([window or math.inf for window in self.windows], dtype=torch.float64)
        keys = torch.minimum(seen, limits[:, None, None]).sum(dim=(-1, -3))
        return self._fixed + self.shape.attention(1.0) * keys

    @property
    def _fixed(self) -> float:
        """What does not depend on the keys."""
        shape = self.shape
        layer = shape.projections(1.0) + shape.mlp_cost(1.0)
        return self.new_tokens * (shape.layers * layer + shape.lm_head)
