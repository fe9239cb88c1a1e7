"""One prefill: which tokens run in which layer, and what the selector sees when it has to choose."""

import zlib
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from vispco.engine import compat
from vispco.engine.attention import is_flash
from vispco.engine.gathering import gather_slots
from vispco.engine.running import Running
from vispco.engine.seen import Seen
from vispco.engine.signals import (
    OBSERVED,
    Sight,
    Tokens,
    find_question,
    glance,
    next_row,
    question_decay,
    square_grid,
    unrotated_row,
)
from vispco.errors import VispcoError
from vispco.selectors import Choice, Merger, Nested, Selector, SelectorInputs, as_nested
from vispco.selectors.ranking import places_of


def sample_keys(input_ids: Tensor, real: Tensor, end: Tensor) -> Tensor:
    """A number per sample that depends on the token ids of its prompt alone; shape (batch,), int64.

    Parameters
    ----------
    input_ids, real : Tensor, shape (batch, sequence)
    end : Tensor, shape (batch,)
        Slot of the last prompt token: answers that are there for training or evaluation have no say.
    """
    prompt = real & (torch.arange(real.shape[1], device=real.device) <= end[:, None])
    rows = zip(input_ids.cpu().to(torch.int64), prompt.cpu(), strict=True)
    keys = [zlib.crc32(ids[mask].numpy().tobytes()) for ids, mask in rows]
    return torch.tensor(keys, dtype=torch.int64)


def last_real(real: Tensor) -> Tensor:
    """Slot of every sample's last token that is not padding; shape (batch,)."""
    return torch.where(real, torch.arange(real.shape[1], device=real.device), 0).amax(dim=1)


class Prefill(Running):
    """A batch on its way through the decoder layers.

    Parameters
    ----------
    visual, real, added
        As of :class:`vispco.engine.running.Running`.
    query : Tensor, shape (batch,)
        Slot of the last prompt token, whose attention scores tokens.
    selector : Selector
    keys : Tensor, shape (batch,)
        See :func:`sample_keys`.
    family : Family or None
        For selectors that look at the final norm or the next layer.
    """

    def __init__(
        self,
        visual: Tensor,
        real: Tensor,
        query: Tensor,
        selector: Selector,
        keys: Tensor,
        added: Sequence[Tensor] = (),
        family: Any = None,
    ):
        super().__init__(visual, real, added)
        self.query, self.selector, self.keys, self.family = query, selector, keys, family
        self.images = self._count_runs()
        """Image of every visual token, counted from 0: a run of visual tokens without others between them."""
        self.floor = (
            torch.where(self.alive, self.images + 1, 0).amax(dim=1).cpu() if self.alive.numel() else self.counts
        )
        """Images per sample, each of which keeps a token; shape (batch,), on the CPU."""
        self.question, self.asked = find_question(visual, real, query)
        """Slots of the question, padded, and which of them are no padding; shape (batch, question)."""
        self.signals: dict[str, Tensor] = {}
        """What the selector needs of the layer that ran."""
        self.constant: dict[str, Tensor] = {}
        """What it needs of the images and of the decoder's input."""
        self.watch = True
        """Whether the layer that runs is one before a cut, so that its attention is worth computing."""
        self._whole = self.alive

    def _count_runs(self) -> Tensor:
        breaks = self.visual_slots.diff(dim=1, prepend=self.visual_slots[:, :1]) > 1
        return breaks.long().cumsum(dim=1)

    def fork(self) -> Self:
        """An independent copy; tensors are shared, as none is ever changed in place."""
        other = super().fork()
        other.signals = dict(self.signals)
        return other

    # The layers, in the order in which things happen to them.

    def enter(
        self, layer: int, counts: Tensor, hidden: Tensor, arguments: dict[str, Any], choice: Choice | None = None
    ) -> tuple[Self, Tensor]:
        """Go from the layer before to ``layer``.

        Parameters
        ----------
        layer : int
        counts : Tensor, shape (batch,)
            Visual tokens to keep, per sample.
        hidden : Tensor, shape (batch, tokens, width)
            Output of the layer before.
        arguments : dict
            Arguments of ``layer`` for the whole sequence.
        choice : Choice or None
            Which tokens to keep, ``counts`` of them; the selector's choice if None.

        Returns
        -------
        Prefill
            The state of ``layer``.
        Tensor, shape (batch, tokens left, width)
            Its input.
        """
        hidden = self.complete(layer - 1, hidden)
        state = self.fork()
        state.added = {after: value for after, value in self.added.items() if after >= layer}
        if layer == 0 and "embeddings" in self.selector.needs:
            state.constant = {**state.constant, **state._here(state._rows_of("embeddings", hidden))}
        return state, state.cut(layer, counts, hidden, arguments, choice)

    def enter_again(self, layer: int, before: "Prefill", hidden: Tensor) -> Tensor:
        """The input of a layer that runs once more in the backward pass, as :meth:`enter` made it."""
        return self.drop_again(before.complete(layer - 1, hidden))

    def cut(
        self, layer: int, counts: Tensor, hidden: Tensor, arguments: dict[str, Any], choice: Choice | None = None
    ) -> Tensor:
        """Drop visual tokens at the input of a layer; ``hidden`` itself where the selector has nothing to choose."""
        counts = torch.minimum(counts, self.counts)
        if choice is None:
            if torch.equal(counts, self.counts):
                return hidden
            choice = self.choose(self.inputs(layer, hidden, arguments), counts)
        return self.drop(choice, counts, hidden)

    def drop(self, choice: Choice, counts: Tensor, hidden: Tensor) -> Tensor:
        """Leave only some visual tokens running; signals of the layer before are not about those that are left."""
        self.signals = {}
        return super().drop(choice, counts, hidden)

    # What the selector sees.

    def observe(self, seen: Seen) -> None:
        """Compute the signals that come out of a layer's attention, if a cut follows it."""
        wanted = self.selector.needs & set(OBSERVED)
        if self.watch and wanted:
            sight = self._sight(seen)
            for need in sorted(wanted):
                self.signals.update(self._here(OBSERVED[need](sight, self._tokens)))

    def _sight(self, seen: Seen) -> Sight:
        return Sight(seen, self.place_of, self.slots, self.real, self._reweigh)

    def _here(self, signals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Signals on the device of the token ids, whatever layer they come from."""
        return {name: value.detach().to(self.alive.device) for name, value in signals.items()}

    @property
    def _tokens(self) -> Tokens:
        return Tokens(self._shown(self.visual_slots), self._shown(self.alive), self.question, self.asked, self.query)

    def _shown(self, values: Tensor) -> Tensor:
        """Of values of all visual tokens (batch, visual, ...), those of the tokens that selectors are shown."""
        return values if self.left is None else gather_slots(values, self.left)

    def _spread(self, values: Tensor, rest: int) -> Tensor:
        """Values of the tokens that selectors are shown, ``rest`` for the others; shape (batch, visual)."""
        if self.left is None:
            return values
        return torch.full_like(self.alive, rest, dtype=values.dtype).scatter(1, self.left, values)

    def _spread_columns(self, weights: Tensor) -> Tensor:
        """Weights (batch, kept, tokens shown) with zeros for the other tokens; shape (batch, kept, visual)."""
        if self.left is None:
            return weights
        full = weights.new_zeros(*weights.shape[:2], self.alive.shape[1])
        return full.scatter(2, self.left[:, None].expand_as(weights), weights)

    def _reweigh(self, heads: Tensor) -> Tensor:
        """Attention (batch, kv_heads, groups, rows, tokens) as the tokens that run see it."""
        return heads

    def _rows_of(self, name: str, hidden: Tensor) -> dict[str, Tensor]:
        """A signal of hidden states: those of the visual tokens and of the question, in float32."""
        slots = self._shown(self.visual_slots), self.question
        visual, question = (gather_slots(hidden, self.place_of(some)) for some in slots)
        return {name: visual.float(), f"question_{name}": question.float()}

    def inputs(self, layer: int, hidden: Tensor, arguments: dict[str, Any]) -> SelectorInputs:
        """What the selector sees at a cut.

        Parameters
        ----------
        layer : int
            The layer whose input is cut.
        hidden : Tensor, shape (batch, tokens, width)
            Its input.
        arguments : dict
            Its arguments for the whole sequence.
        """
        needs, family = self.selector.needs, self.family
        if needs & set(OBSERVED) - set(self.signals):
            raise VispcoError("nothing can be dropped before the first layer: its attention is not there yet")
        signals = dict(self.signals)
        for name, value in self.constant.items():
            signals[name] = value if name.startswith("question_") else self._shown(value)
        if "hidden" in needs:
            signals |= self._here(self._rows_of("hidden", hidden))
        if "normed" in needs:
            signals |= self._here(self._rows_of("normed", family.norm(hidden)))
        for need, rotated, read in (("next_row", True, next_row), ("unrotated_row", False, unrotated_row)):
            if need in needs:
                flash = is_flash(family.decoder.config._attn_implementation)
                given = self.layer_arguments(arguments, hidden, flash=flash)
                seen = glance(family, layer, hidden.detach(), given, rotated=rotated)
                signals |= self._here({need: read(self._sight(seen), self._tokens)})
        if "question_decay" in needs:
            text = family.decoder.config
            tables = compat.one_axis(arguments["position_embeddings"], text)
            width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
            signals |= self._here({"question_decay": question_decay(tables, self._tokens, width)})
        if "grid" in needs and "grid" not in signals:
            signals["grid"] = self._shown(square_grid(self.images, self._whole))
        if "crops" in needs and "crops" not in signals:
            signals["crops"] = torch.zeros_like(self._shown(self.images))
        if "sample_key" in needs:
            signals["sample_key"] = self.keys
        alive = self._shown(self.alive)
        places = torch.arange(self.alive.shape[1], device=alive.device).expand_as(self.alive)
        return SelectorInputs(
            valid=alive,
            places=self._shown(places),
            images=self._shown(self.images),
            sizes=self._shown(self.sizes),
            question_valid=self.asked,
            **signals,
        )

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Choice:
        """Visual tokens to keep, ``counts`` (batch,) of them.

        The selector's choice, but that of several images each keeps a token while the counts leave it one.
        """
        counts = counts.to(self.alive.device)
        if isinstance(self.selector, Merger):
            merged = self.selector.merge(inputs, counts)
            assert merged.weights is not None
            return Choice(self._spread(merged.kept, 0), self._spread_columns(merged.weights))
        several = bool((self.floor > 1).any())
        if several and isinstance(self.selector, Nested):
            return Choice(self.alive & (self.ranks(inputs) < counts[:, None]))
        chosen = self._spread(self.selector.choose(inputs, counts), 0)
        return Choice(keep_every_image(chosen, self.alive, self.images) if several else chosen)

    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Rank of every visual token among those alive, shape (batch, visual): the selector's, leaders first.

        The best token of each of several images comes before all others.

        Raises
        ------
        ConfigError
            If the selector cannot rank tokens, because its set depends on how many there may be.
        """
        last = self.alive.shape[1]
        ranks = self._spread(as_nested(self.selector).ranks(inputs), last)
        if self.left is not None:  # tokens that are gone come last, each with a rank of its own
            ranks = places_of(ranks.argsort(dim=1, stable=True))
        if bool((self.floor <= 1).all()):
            return ranks
        best = torch.full_like(ranks, last).scatter_reduce(1, self.images, ranks.where(self.alive, last), "amin")
        leads = self.alive & (best.gather(1, self.images) == ranks)
        return places_of(ranks.where(~leads, ranks - last).argsort(dim=1))


def keep_every_image(chosen: Tensor, alive: Tensor, images: Tensor) -> Tensor:
    """Exchange tokens of the image that kept most for the first one of an image that kept none.

    Parameters
    ----------
    chosen, alive : Tensor, shape (batch, visual), bool
    images : Tensor, shape (batch, visual), int64

    Returns
    -------
    Tensor, shape (batch, visual), bool
        As many as ``chosen``.
    """
    chosen = chosen.clone()
    for kept, there, image in zip(chosen, alive, images, strict=True):
        for lost in sorted(set(image[there].tolist()) - set(image[kept].tolist())) if bool(kept.any()) else ():
            most = image[kept].bincount().argmax()
            kept[(kept & (image == most)).nonzero()[-1]] = False
            kept[(there & (image == lost)).nonzero()[0]] = True
    return chosen
