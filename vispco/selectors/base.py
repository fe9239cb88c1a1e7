"""What a selector is and what it may see.

A selector decides *which* visual tokens stay; the engine decides how many. It is a pure function of the inputs that it
declares in ``needs``: the engine computes just those, never a full attention map. There are these kinds:

* a :class:`Scorer` gives every token a score, and the best stay;
* an :class:`Orderer` picks token after token, so that more tokens are a longer prefix of one order;
* a :class:`Setter` chooses a set that depends on how many tokens it may have, and a :class:`Merger` is one that puts
  tokens together, so that what it drops lives on in what it keeps.

Scorers and orderers are nested: of falling counts on the same inputs, each keeps a part of what the one before kept.
Only they can be searched by gradient, which weights tokens by their rank.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from vispco.cost import Cut
from vispco.errors import ConfigError
from vispco.selectors.ranking import places_in, rank_tokens

Need = Literal[
    "last_row",
    "visual_row",
    "next_row",
    "unrotated_row",
    "question_rows",
    "question_heads",
    "question_decay",
    "self_mass",
    "cross_mass",
    "keys",
    "hidden",
    "normed",
    "embeddings",
    "grid",
    "sample_key",
    "tower_row",
    "tower_first_row",
    "tower_keys",
    "tower_hidden",
    "crops",
]

BEFORE: frozenset[Need] = frozenset(
    {"last_row", "visual_row", "question_rows", "question_heads", "self_mass", "cross_mass", "keys", "normed"}
)
"""Needs that come out of the layer before a cut: with one of them nothing can be dropped before the first layer."""


@dataclass(frozen=True)
class SelectorInputs:
    """Signals for one cut. ``B`` batch, ``V`` visual tokens in their original order, padded; ``T`` question tokens.

    The question are the text tokens after the last visual one, up to the last prompt token. Signals of tokens that are
    not valid are arbitrary but finite. "Before the cut" is the layer whose output is cut, ``A`` its post-softmax
    attention over all keys that a token sees; means over heads are over query heads.

    Attributes
    ----------
    valid : Tensor, shape (batch, visual), bool
        Tokens that are still there.
    places : Tensor, shape (batch, visual), int64, or None
        Place of every token among the sample's visual tokens before anything was dropped. Always given by the engine.
    images : Tensor, shape (batch, visual), int64, or None
        Image of every token, counted from 0. Always given by the engine.
    sizes : Tensor, shape (batch, visual), float32, or None
        How many original tokens each one stands for: 1 until tokens are merged. Always given by the engine.
    last_row : Tensor, shape (batch, visual), float32, or None
        ``mean_h A[h, last, j]``, attention of the last prompt token.
    visual_row : Tensor, shape (batch, visual), float32, or None
        ``mean_h A[h, v, j]`` of the last visual token v that is there.
    next_row : Tensor, shape (batch, visual), float32, or None
        As ``last_row``, of the layer after the cut, if it ran on all tokens that are there.
    unrotated_row : Tensor, shape (batch, visual), float32, or None
        As ``next_row``, without rotary positions and with the softmax over visual tokens alone.
    question_rows : Tensor, shape (batch, question, visual), float32, or None
        ``mean_h A[h, t, j]`` of every question token.
    question_heads : Tensor, shape (batch, heads, question, visual), float32, or None
        ``A[h, t, j]`` of every question token and query head.
    question_decay : Tensor, shape (batch, question, visual), float32, or None
        What rotary positions alone make of the product of a question token and a visual one: the scaled product of
        all-ones vectors that are rotated like a query and a key of the layer after the cut. May be 0 or negative.
    self_mass : Tensor, shape (batch, visual), float32, or None
        Mean over visual tokens q of ``max_h A[h, q, j]``.
    cross_mass : Tensor, shape (batch, visual), float32, or None
        Sum over question tokens t of ``max_h A[h, t, j]``.
    keys : Tensor, shape (batch, visual, width), float32, or None
        Keys before the cut, after rotary embedding, heads side by side.
    question_keys : Tensor, shape (batch, question, width), float32, or None
        Those of the question; come with ``keys``.
    hidden : Tensor, shape (batch, visual, width), float32, or None
        Hidden states at the cut.
    question_hidden : Tensor, shape (batch, question, width), float32, or None
        Those of the question; come with ``hidden``.
    normed, question_normed : Tensor, shape (batch, visual or question, width), float32, or None
        ``hidden`` and ``question_hidden`` after the model's final norm.
    embeddings, question_embeddings : Tensor, shape (batch, visual or question, width), float32, or None
        Inputs of the first layer.
    question_valid : Tensor, shape (batch, question), bool, or None
        Question tokens that are no padding; comes with every signal of the question.
    grid : Tensor, shape (batch, visual, 2), int64, or None
        Row and column of every token in its image.
    sample_key : Tensor, shape (batch,), int64, or None
        A number that depends on the sample's token ids alone, for reproducible randomness.
    tower_row : Tensor, shape (batch, visual), float32, or None
        Attention in the vision tower's layer whose output is projected, mean over heads: of the class token, or, where
        the tower has none, received on average over all patches of the image.
    tower_first_row : Tensor, shape (batch, visual), float32, or None
        The same in the tower's first layer.
    tower_keys : Tensor, shape (batch, visual, heads, head_dim), float32, or None
        Keys of the layer of ``tower_row``.
    tower_hidden : Tensor, shape (batch, visual, width), float32, or None
        What that layer puts out, before the projector.
    crops : Tensor, shape (batch, visual), int64, or None
        Tile of its image that a token is from; 0 is the whole picture, and the only one where images are not tiled.

    Where several patches make one token, tower signals are their means. A token that is no patch (the newline of
    LLaVA-NeXT) has zeros. After a merge, all signals but those of the decoder are those of the token that stayed.
    """

    valid: Tensor
    places: Tensor | None = None
    images: Tensor | None = None
    sizes: Tensor | None = None
    last_row: Tensor | None = None
    visual_row: Tensor | None = None
    next_row: Tensor | None = None
    unrotated_row: Tensor | None = None
    question_rows: Tensor | None = None
    question_heads: Tensor | None = None
    question_decay: Tensor | None = None
    self_mass: Tensor | None = None
    cross_mass: Tensor | None = None
    keys: Tensor | None = None
    question_keys: Tensor | None = None
    hidden: Tensor | None = None
    question_hidden: Tensor | None = None
    normed: Tensor | None = None
    question_normed: Tensor | None = None
    embeddings: Tensor | None = None
    question_embeddings: Tensor | None = None
    question_valid: Tensor | None = None
    grid: Tensor | None = None
    sample_key: Tensor | None = None
    tower_row: Tensor | None = None
    tower_first_row: Tensor | None = None
    tower_keys: Tensor | None = None
    tower_hidden: Tensor | None = None
    crops: Tensor | None = None


@dataclass(frozen=True)
class Choice:
    """Tokens that stay at a cut, and what is in them.

    Attributes
    ----------
    kept : Tensor, shape (batch, visual), bool
    weights : Tensor, shape (batch, kept, visual), float32, or None
        Hidden states of the k-th kept token become ``sum_j weights[k, j] h_j``. Rows beyond a sample's kept tokens, and
        columns of tokens that are not valid, are zero. None if kept tokens stay as they are.
    """

    kept: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class Knob:
    """Range of a selector's parameter, for validation and for a search that tunes it with the schedule.

    Attributes
    ----------
    low, high : float
    whole : bool
        Whether only whole numbers make sense.
    """

    low: float
    high: float
    whole: bool = False

    def check(self, name: str, value: Any) -> Any:
        """``value``, if it is in the range.

        Raises
        ------
        ConfigError
            With the value and the range.
        """
        kind = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not self.low <= value <= self.high:
            what = "whole number" if self.whole else "number"
            raise ConfigError(
                f"selector parameter {name} = {value!r} is not a {what} in {self.low:g}..{self.high:g}; choose one"
            )
        return value


def _glance(cut: Cut) -> float:
    """Queries, keys and values of the next layer for all tokens, and one row."""
    shape = cut.shape
    width = shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    return 2.0 * cut.tokens * shape.hidden * width + cut.attention_row


SIGNAL_FLOPS: dict[str, Callable[[Cut], float]] = {
    "last_row": lambda cut: cut.attention_row,
    "visual_row": lambda cut: cut.attention_row,
    "next_row": _glance,
    "unrotated_row": _glance,
    "question_rows": lambda cut: cut.question * cut.attention_row,
    "question_heads": lambda cut: cut.question * cut.attention_row,
    "question_decay": lambda cut: 4.0 * cut.question * cut.visual * cut.shape.head_dim,
    "cross_mass": lambda cut: cut.question * cut.attention_row,
    "self_mass": lambda cut: cut.visual * cut.attention_row,
}
"""FLOPs of a signal at one cut; the others are there already."""


class Selector(ABC):
    """Chooses visual tokens; see the module for the kinds.

    Attributes
    ----------
    needs : frozenset of str
        Signals it reads, by the names of :class:`SelectorInputs`.
    knobs : dict of str to Knob
        Its parameters.
    smooth_knobs : frozenset of str
        Those in which a scorer's scores are differentiable, so that they can be learned with the schedule.
    paper : str
        Where it is from.
    complexity : str
        Work per cut, with N visual tokens of which K stay, width d, H heads and T question tokens.
    """

    needs: ClassVar[frozenset[Need]]
    knobs: ClassVar[Mapping[str, Knob]] = {}
    smooth_knobs: ClassVar[frozenset[str]] = frozenset()
    paper: ClassVar[str]
    complexity: ClassVar[str]

    def flops(self, cut: Cut) -> float:
        """FLOPs of choosing tokens at a cut: of the signals it needs, and of its own products."""
        return sum(SIGNAL_FLOPS[need](cut) for need in self.needs if need in SIGNAL_FLOPS) + self.own_flops(cut)

    def own_flops(self, cut: Cut) -> float:
        """FLOPs of matrix products beyond those of the signals; element-wise work is not counted."""
        return 0.0

    def tuned(self, **knobs: Tensor) -> Self:
        """The selector with values (batch,) of smooth knobs, one per sample; gradients flow into them."""
        assert self.smooth_knobs >= set(knobs)
        other = copy.copy(self)
        vars(other).update({name: value[:, None] for name, value in knobs.items()})
        return other

    @abstractmethod
    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """Tokens to keep.

        Parameters
        ----------
        inputs : SelectorInputs
        counts : Tensor, shape (batch,), int64
            How many, at most the valid ones.

        Returns
        -------
        Tensor, shape (batch, visual), bool
            Exactly ``counts`` of the valid tokens.
        """


class Nested(Selector):
    """A selector whose kept sets are nested: it can rank all tokens."""

    @abstractmethod
    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Rank of every token, 0 the best, valid ones first; shape (batch, visual), int64."""

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """The first ranks."""
        return inputs.valid & (self.ranks(inputs) < counts.to(inputs.valid.device)[:, None])


class Scorer(Nested):
    """A selector that scores every token on its own; higher scores stay."""

    @abstractmethod
    def score(self, inputs: SelectorInputs) -> Tensor:
        """Scores of shape (batch, visual), float32; those of invalid tokens play no part."""

    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Places in the order of falling scores; ties go to the lower index."""
        return rank_tokens(self.score(inputs), inputs.valid)


class Orderer(Nested):
    """A selector that picks token after token, each in view of those before it."""

    @abstractmethod
    def order(self, inputs: SelectorInputs, steps: int) -> Tensor:
        """The first ``steps`` picks, indices of shape (batch, steps); arbitrary once all valid tokens are picked."""

    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Places in the complete order; tokens that are not valid come last."""
        return places_in(self.order(inputs, inputs.valid.shape[1]), inputs.valid)

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """The first picks, as many as needed and no more."""
        steps = int(counts.max()) if len(counts) else 0
        picks = self.order(inputs, steps)
        wanted = torch.arange(steps, device=picks.device)[None] < counts.to(picks.device)[:, None]
        chosen = torch.zeros_like(inputs.valid, dtype=torch.int64).scatter_add_(1, picks, wanted.long())
        return inputs.valid & (chosen > 0)


class Setter(Selector):
    """A selector whose set depends on how many tokens it may have; nothing beyond :meth:`choose`."""


class Merger(Setter):
    """A selector whose kept tokens take in others.

    A merged token stands where the kept one stood, with its position, and costs what one token costs. While a sample
    has a token for each of its images, every image keeps one.
    """

    def flops(self, cut: Cut) -> float:
        """As of every selector, and the product of weights and hidden states."""
        return super().flops(cut) + 2.0 * cut.kept * cut.visual * cut.shape.hidden * cut.streams

    @abstractmethod
    def merge(self, inputs: SelectorInputs, counts: Tensor) -> Choice:
        """Tokens to keep, exactly ``counts`` (batch,) of the valid ones, and their weights."""

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """The kept tokens of :meth:`merge`."""
        return self.merge(inputs, counts).kept


def as_nested(selector: Selector) -> Nested:
    """The selector, if it can rank tokens.

    Raises
    ------
    ConfigError
        If its set depends on how many tokens there may be.
    """
    if not isinstance(selector, Nested):
        raise ConfigError(
            f"{type(selector).__name__} chooses another set for another count, so that a search by gradient cannot "
            "weight tokens by rank; use search=grid, or choose another selector"
        )
    return selector
