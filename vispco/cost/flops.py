"""Floating-point operations of the language model's prefill, exact and soft by one formula.

A multiply-add counts 2, attention is counted in full (every query against every key, as
``torch.utils.flop_counter`` does), norms, rotary embeddings and softmax are not counted. For a layer with ``n`` tokens,
hidden width ``d``, ``H`` query and ``G`` key/value heads of ``D`` dimensions and a gated MLP of width ``m``::

    projections = 2 n d D (2 H + 2 G)        query, output, key, value
    attention   = 4 n^2 H D                  scores and weighted sum
    mlp         = 6 n d m                    gate, up, down
    lm_head     = 2 d V                      logits of the last position, all that ``generate`` computes
    selection   = 2 n H D                    per attention row that a selector reads before a cut; see :class:`Cut`
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from vispco.errors import BudgetError, ConfigError, ModelError
from vispco.schedule import check_keep, keep_counts

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder that its cost depends on."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "DecoderShape":
        """Read the sizes from a Hugging Face configuration (of the whole model or of its text part).

        Raises
        ------
        ModelError
            If a size is missing.
        """
        text = config.get_text_config()
        try:
            return cls(
                layers=text.num_hidden_layers,
                hidden=text.hidden_size,
                heads=text.num_attention_heads,
                kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
                head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
                mlp=text.intermediate_size,
                vocabulary=text.vocab_size,
            )
        except AttributeError as error:
            raise ModelError(f"model type {config.model_type!r} gives no decoder sizes ({error})") from None

    def projections(self, tokens: Number) -> Number:
        """Query, key, value and output projections of one layer."""
        return 2.0 * self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads) * tokens

    def attention(self, tokens: Number) -> Number:
        """Attention scores and weighted values of one layer."""
        return 4.0 * self.heads * self.head_dim * tokens * tokens

    def mlp_cost(self, tokens: Number) -> Number:
        """The gated MLP of one layer."""
        return 6.0 * self.hidden * self.mlp * tokens

    def layer(self, tokens: Number) -> Number:
        """One layer in which ``tokens`` tokens (text and visual) run."""
        return self.projections(tokens) + self.attention(tokens) + self.mlp_cost(tokens)

    @property
    def kv_numbers(self) -> int:
        """Numbers that one layer's cache holds per token: a key and a value."""
        return 2 * self.kv_heads * self.head_dim

    @property
    def lm_head(self) -> float:
        """Logits of one position."""
        return 2.0 * self.hidden * self.vocabulary


@dataclass(frozen=True)
class Cut:
    """Where a selector chooses tokens of one sample.

    Attributes
    ----------
    shape : DecoderShape
    tokens : float
        Text and visual tokens that run before the cut.
    visual, kept : float
        Visual tokens before and after it.
    question : float
        Text tokens after the last visual one, up to the end of the prompt.
    streams : int
        Vectors per token that a merge has to put together: its hidden state, and what the vision tower still adds to
        layers from here on (DeepStack).
    """

    shape: DecoderShape
    tokens: float
    visual: float
    kept: float
    question: float
    streams: int = 1

    @property
    def attention_row(self) -> float:
        """FLOPs of one row of attention scores, all heads."""
        return 2.0 * self.tokens * self.shape.heads * self.shape.head_dim


Selection = int | Callable[[Cut], float]
"""FLOPs of choosing tokens at a cut; a number is that of attention rows."""


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
    shape = DecoderShape.of(config)
    counts = keep_counts(check_keep(keep, shape.layers), visual_tokens, floor=images)
    tokens = [float(text_tokens + count) for count in counts.tolist()]
    full = float(text_tokens + visual_tokens)
    asked = float(text_tokens if question is None else question)
    before = [visual_tokens, *counts.tolist()]
    deepstack = len(getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ())
    cuts = [
        Cut(shape, float(text_tokens + had), float(had), float(kept), asked, 1 + max(0, deepstack - layer))
        for layer, (had, kept) in enumerate(pairwise(before))
        if kept < had
    ]
    return FlopReport(
        projections=sum(map(shape.projections, tokens)),
        attention=sum(map(shape.attention, tokens)),
        mlp=sum(map(shape.mlp_cost, tokens)),
        lm_head=shape.lm_head,
        selection=sum(selection * cut.attention_row if isinstance(selection, int) else selection(cut) for cut in cuts),
        unpruned=shape.layers * shape.layer(full) + shape.lm_head,
    )


class FlopCost:
    """Prefill FLOPs over a set of samples, as a fraction of the unpruned prefill (a ratio of means).

    Samples with equal token numbers are counted once and weighted.

    Parameters
    ----------
    config
        Hugging Face configuration of the model.
    tokens : sequence of (text_tokens, visual_tokens[, images[, question]]), one per sample
    selection : int or callable
        See :func:`count_flops`.
    """

    name = "flops"

    def __init__(self, config: Any, tokens: Sequence[tuple[int, ...]], selection: Selection = 0):
        self.config = config
        self.shape = DecoderShape.of(config)
        self.selection = selection
        self.tokens = list(tokens)
        kinds = sorted(set(tokens))
        self.kinds = kinds
        self.weights = [tokens.count(kind) / len(tokens) for kind in kinds]
        self.text = torch.tensor([text for text, *_ in kinds], dtype=torch.float64)
        self.visual = torch.tensor([visual for _, visual, *_ in kinds], dtype=torch.float64)
        self._weight = torch.tensor(self.weights, dtype=torch.float64)

    @property
    def unpruned(self) -> float:
        """Mean FLOPs of an unpruned prefill."""
        full = self.shape.layers * self.shape.layer(self.text + self.visual) + self.shape.lm_head
        return float((full * self._weight).sum())

    def exact(self, keep: Sequence[float]) -> float:
        """Cost of the integer counts that ``keep`` rounds to, selection included."""
        reports = [
            count_flops(self.config, text, visual, keep, self.selection, *others)
            for text, visual, *others in self.kinds
        ]
        # Both sums in the same order, so that the unpruned schedule costs 1.0 and not a rounding error more.
        spent = sum(w * report.total for w, report in zip(self.weights, reports, strict=True))
        return spent / sum(w * report.unpruned for w, report in zip(self.weights, reports, strict=True))

    def exact_each(self, keeps: Sequence[Sequence[float]]) -> float:
        """:meth:`exact` where every sample has a schedule of its own.

        Parameters
        ----------
        keeps : sequence of schedules, one per sample in the order of ``tokens``

        Raises
        ------
        ConfigError
            If they are not as many as the samples, or one is not a schedule for this model.
        """
        if len(keeps) != len(self.tokens):
            raise ConfigError(
                f"{len(keeps)} schedules were given for {len(self.tokens)} samples; give one for each, in their order"
            )
        reports = [
            count_flops(self.config, text, visual, keep, self.selection, *others)
            for keep, (text, visual, *others) in zip(keeps, self.tokens, strict=True)
        ]
        return sum(report.total for report in reports) / sum(report.unpruned for report in reports)

    def soft(self, ratios: Tensor) -> Tensor:
        """Differentiable twin without rounding and without selection.

        Parameters
        ----------
        ratios : Tensor, shape (..., layers)

        Returns
        -------
        Tensor, shape (...), float64
        """
        tokens = self.text + ratios.double()[..., None] * self.visual
        total = self.shape.layer(tokens).sum(dim=-2) + self.shape.lm_head
        return (total * self._weight).sum(dim=-1) / self.unpruned

    def reachable(self, floor: Sequence[float]) -> tuple[float, float]:
        """Smallest and largest cost, where ``floor`` is the cheapest schedule allowed."""
        return self.exact(floor), 1.0

    def check_budget(self, budget: float, floor: Sequence[float]) -> None:
        """Refuse a budget that no schedule can meet.

        Raises
        ------
        BudgetError
            With the reachable range.
        """
        least, most = self.reachable(floor)
        if not least <= budget <= most:
            raise BudgetError(
                f"budget {budget:g} cannot be reached: costs of this model and data run from {least:.3f} "
                f"(text tokens and the layers that must stay whole) to {most:.3f} of the unpruned prefill; "
                f"choose a budget in between"
            )
