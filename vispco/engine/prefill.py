"""The state of one prefill: which tokens run in which layer.

A *slot* is a token's place in the unpruned sequence. Everything that transformers derives from a sequence (positions,
masks, cache length) is kept in slots, so dropping tokens means gathering by slot and nothing else. Every layer has a
state of its own, which is not changed once the layer has run: gradient checkpointing may run the layer again.
"""

import copy
import zlib
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from vispco.engine.gathering import FILLER, gather_mask, gather_padding, gather_slots, gather_table
from vispco.errors import ModelError, VispcoError
from vispco.selectors import Selector, SelectorInputs, rank_tokens


def sample_keys(input_ids: Tensor, real: Tensor) -> Tensor:
    """A number per sample that depends on its real token ids alone; shape (batch,), int64."""
    rows = zip(input_ids.cpu().to(torch.int64), real.cpu(), strict=True)
    keys = [zlib.crc32(ids[mask].numpy().tobytes()) for ids, mask in rows]
    return torch.tensor(keys, dtype=torch.int64)


def last_real(real: Tensor) -> Tensor:
    """Slot of every sample's last token that is not padding; shape (batch,)."""
    return torch.where(real, torch.arange(real.shape[1], device=real.device), 0).amax(dim=1)


class Prefill:
    """A batch before, in and after one decoder layer of a prefill.

    Parameters
    ----------
    visual, real : Tensor, shape (batch, sequence), bool
        Visual tokens, and tokens that are not padding.
    query : Tensor, shape (batch,)
        Slot of the last prompt token, whose attention scores tokens.
    selector : Selector
    keys : Tensor, shape (batch,)
        See :func:`sample_keys`.
    added : sequence of Tensor, shape (batch, sequence, width)
        What the decoder adds to the output of its first layers (DeepStack), one tensor per layer.
    """

    def __init__(
        self,
        visual: Tensor,
        real: Tensor,
        query: Tensor,
        selector: Selector,
        keys: Tensor,
        added: Sequence[Tensor] = (),
    ):
        self.visual, self.real, self.query, self.selector, self.keys = visual, real, query, selector, keys
        self.added = tuple(added)
        batch, self._length = visual.shape
        # What decides shapes stays on the CPU: asking a device for it would make every layer wait.
        self.counts = visual.sum(dim=1).cpu()
        """Visual tokens that run, per sample; shape (batch,), on the CPU."""
        self.text = real.sum(dim=1).cpu() - self.counts
        """Other tokens, which always run; shape (batch,), on the CPU."""
        most = int(self.counts.max()) if batch else 0
        self.visual_slots = torch.where(visual, 0, 1).argsort(dim=1, stable=True)[:, :most]
        """Slots of the visual tokens in order, shape (batch, visual); padded where ``alive`` starts False."""
        self.alive = torch.arange(most, device=visual.device)[None] < self.counts.to(visual.device)[:, None]
        """Visual tokens that are still there, shape (batch, visual)."""
        self.images = self._count_runs()
        """Image of every visual token, counted from 0: a run of visual tokens without others between them."""
        self.floor = torch.where(self.alive, self.images + 1, 0).amax(dim=1).cpu() if most else self.counts
        """Images per sample, each of which keeps a token; shape (batch,), on the CPU."""
        self.slots: Tensor | None = None
        """Slots of the tokens that run, shape (batch, tokens); None while all do."""
        self.fillers = False
        """Whether ``slots`` has places without a token."""
        self.policy: Tensor | None = None
        """Weight of every token that runs, shape (batch, tokens), if they are weighted."""
        self.last_row: Tensor | None = None
        self.watch = True
        """Whether the layer that runs is one before a cut, so that its attention is worth computing."""
        self._places: Tensor | None = None
        self._gathered: dict[int, tuple[Any, Any]] = {}

    def _count_runs(self) -> Tensor:
        breaks = self.visual_slots.diff(dim=1, prepend=self.visual_slots[:, :1]) > 1
        return breaks.long().cumsum(dim=1)

    def fork(self) -> Self:
        """An independent copy; tensors are shared, as none is ever changed in place."""
        other = copy.copy(self)
        other._places = None
        return other

    def select(self, index: Tensor) -> Self:
        """The prefill of samples ``index`` (which may repeat)."""
        other = self.fork()
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, name, value[index.to(value.device)])
        other.added = tuple(value[index.to(value.device)] for value in self.added)
        other._gathered = {}
        return other

    # The layers, in the order in which things happen to them.

    def enter(self, layer: int, counts: Tensor, hidden: Tensor, chosen: Tensor | None = None) -> tuple[Self, Tensor]:
        """Go from the layer before to ``layer``.

        Parameters
        ----------
        layer : int
        counts : Tensor, shape (batch,)
            Visual tokens to keep, per sample.
        hidden : Tensor, shape (batch, tokens, width)
            Output of the layer before.
        chosen : Tensor, shape (batch, visual), bool, or None
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
        return state, state.cut(counts, hidden, chosen)

    def enter_again(self, layer: int, before: "Prefill", hidden: Tensor) -> Tensor:
        """The input of a layer that runs once more in the backward pass, as :meth:`enter` made it."""
        hidden = before.complete(layer - 1, hidden)
        return hidden if self._places is None else gather_slots(hidden, self._places)

    def complete(self, layer: int, hidden: Tensor) -> Tensor:
        """The output of ``layer`` with what the decoder adds to it; shape (batch, tokens, width)."""
        if not 0 <= layer < len(self.added):
            return hidden
        if self.added[layer].requires_grad and not torch.is_grad_enabled():
            # Only a reentrant checkpoint around our hooks turns gradients off between vision tower and layer.
            raise ModelError(
                "reentrant gradient checkpointing loses the gradient of DeepStack features on transformers before "
                "5.23; pass use_reentrant=False or freeze the vision tower"
            )
        added = self.added[layer] if self.slots is None else gather_slots(self.added[layer], self.slots)
        return hidden + added.to(hidden.device, hidden.dtype)

    def cut(self, counts: Tensor, hidden: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Drop visual tokens at the input of a layer; ``hidden`` itself where the selector has nothing to choose."""
        counts = torch.minimum(counts, self.counts)
        if chosen is None:
            if torch.equal(counts, self.counts):
                return hidden
            chosen = self.ranks() < counts.to(self.alive.device)[:, None]
        return self.drop(chosen, counts, hidden)

    def drop(self, chosen: Tensor, counts: Tensor, hidden: Tensor) -> Tensor:
        """Leave only the visual tokens ``chosen`` (batch, visual) running, ``counts`` (batch,) of them."""
        alive = self.alive & chosen
        kept_visual = torch.zeros_like(self.visual).scatter(1, self.visual_slots, alive)
        kept = self.real & (~self.visual | kept_visual)
        tokens = self.text + counts
        width = int(tokens.max())
        places = torch.arange(self._length, device=kept.device)
        slots = torch.where(kept, places[None], FILLER).sort(dim=1).values[:, self._length - width :]
        self._places = self.place_of(slots.clamp(min=0))
        self.alive, self.counts, self.slots, self.last_row = alive, counts, slots, None
        self.fillers = bool((tokens < width).any())
        self._gathered = {}
        return gather_slots(hidden, self._places)

    def layer_arguments(self, arguments: dict[str, Any], hidden: Tensor, *, flash: bool = False) -> dict[str, Any]:
        """Arguments of a decoder layer for the tokens that run, from those for the whole sequence.

        Parameters
        ----------
        arguments : dict
            ``position_embeddings``, ``position_ids`` and ``attention_mask`` are replaced, the rest is handed on.
        hidden : Tensor
            The layer's input, for its dtype.
        flash : bool
            Whether the attention backend takes padding masks, shape (batch, tokens), and gets order from them alone.
        """
        if self.slots is None:
            return arguments
        slots, mask, positions = self.slots, arguments.get("attention_mask"), arguments.get("position_ids")

        def gather(mask: Tensor | None) -> Tensor | None:
            if flash:
                return gather_padding(mask, slots, self.fillers)
            return gather_mask(mask, slots, slots, hidden.dtype, self.fillers)

        if id(mask) not in self._gathered:  # layers share masks, of which a model may have one per layer type
            self._gathered[id(mask)] = (mask, gather(mask))
        if flash:  # takes positions with gaps for packed sequences; rotary tables have been made already
            positions = None
        return {
            **arguments,
            "position_embeddings": tuple(map(self._gather_once, arguments["position_embeddings"])),
            "position_ids": None if positions is None else gather_table(positions[..., None], slots)[..., 0],
            "attention_mask": self._gathered[id(mask)][1],
        }

    def _gather_once(self, table: Tensor) -> Tensor:
        assert self.slots is not None
        if id(table) not in self._gathered:
            self._gathered[id(table)] = (table, gather_table(table, self.slots))
        gathered: Tensor = self._gathered[id(table)][1]
        return gathered

    def scatter_back(self, hidden: Tensor) -> Tensor:
        """Survivors at their slots of the full sequence, zeros elsewhere; shape (batch, sequence, width)."""
        if self.slots is None:
            return hidden
        slots = self.slots.to(hidden.device)
        full = hidden.new_zeros(hidden.shape[0], self._length + 1, hidden.shape[2])
        return full.scatter(1, (slots + 1)[..., None].expand_as(hidden), hidden)[:, 1:]

    def running(self) -> Tensor:
        """Tokens that run; bool, shape (batch, sequence)."""
        if self.slots is None:
            return torch.ones_like(self.real)
        full = torch.zeros(len(self.slots), self._length + 1, dtype=torch.bool, device=self.slots.device)
        return full.scatter(1, self.slots + 1, True)[:, 1:]

    def place_of(self, slots: Tensor) -> Tensor:
        """Local places of ``slots`` (batch, any) among the running tokens; arbitrary for slots that are gone."""
        if self.slots is None:
            return slots
        inverse = torch.zeros(len(self.slots), self._length + 1, dtype=torch.int64, device=slots.device)
        places = torch.arange(self.slots.shape[1], device=slots.device).expand_as(self.slots)
        inverse.scatter_(1, self.slots + 1, places)
        return inverse.gather(1, slots + 1)

    # Scores.

    def observe(
        self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, softcap: float | None = None
    ) -> None:
        """Compute the last prompt token's attention row from what a layer's attention function gets.

        Parameters
        ----------
        query : Tensor, shape (batch, heads, tokens, head_dim)
            After rotary embedding, like ``key``.
        key : Tensor, shape (batch, kv_heads, tokens, head_dim)
        mask : Tensor, shape (batch or 1, 1, tokens, tokens), bool or additive, or (batch, tokens) for padding, or None
        scaling : float
        softcap : float or None
            Bound of the logits, ``softcap * tanh(logits / softcap)``.
        """
        if self.watch and "last_row" in self.selector.needs:
            row = self._attention_row(query.detach(), key.detach(), mask, scaling, softcap)
            self.last_row = row.to(self.alive.device).gather(1, self.place_of(self.visual_slots))

    def _attention_row(
        self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, softcap: float | None
    ) -> Tensor:
        """Softmax over all visible keys, mean over query heads; shape (batch, tokens), float32."""
        place = self.place_of(self.query[:, None]).to(query.device)
        row = gather_slots(query.transpose(1, 2), place)[:, 0]
        groups = row.reshape(row.shape[0], key.shape[1], -1, row.shape[-1])
        logits = (groups @ key.transpose(2, 3)).float() * scaling
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        visible = self._visible_keys(key.shape[2], place, mask).to(logits.device)
        heads = logits.masked_fill(~visible[:, None, None], -torch.inf).softmax(dim=-1)
        return self._reweigh(heads).mean(dim=(1, 2))

    def _visible_keys(self, tokens: int, place: Tensor, mask: Tensor | None) -> Tensor:
        """Keys that the last prompt token sees; bool, shape (batch, tokens)."""
        if mask is not None and mask.dim() == 4:
            row = gather_slots(mask[:, 0], place.to(mask.device))[:, 0]
            return row if row.dtype == torch.bool else row >= 0
        if self.slots is None:
            places = torch.arange(tokens, device=self.real.device)
            return self.real & (places[None] <= self.query[:, None])
        return (self.slots != FILLER) & (self.slots <= self.query[:, None])

    def _reweigh(self, heads: Tensor) -> Tensor:
        """Attention rows (batch, kv_heads, groups, tokens) as the tokens that run see them."""
        return heads

    def ranks(self) -> Tensor:
        """Rank of every visual token among those alive; shape (batch, visual).

        The selector's order, but for the best token of each image, which comes before all others: no image of several
        may vanish while the counts leave it a token.
        """
        if "last_row" in self.selector.needs and self.last_row is None:
            raise VispcoError("nothing can be dropped before the first layer: its attention is not there yet")
        inputs = SelectorInputs(valid=self.alive, last_row=self.last_row, sample_key=self.keys)
        ranks = rank_tokens(self.selector.score(inputs), self.alive)
        if bool((self.floor <= 1).all()):
            return ranks
        last = ranks.shape[1]
        best = torch.full_like(ranks, last).scatter_reduce(1, self.images, ranks.where(self.alive, last), "amin")
        leads = self.alive & (best.gather(1, self.images) == ranks)
        order = ranks.where(~leads, ranks - last).argsort(dim=1)
        return torch.empty_like(order).scatter(1, order, torch.arange(last, device=order.device).expand_as(order))
