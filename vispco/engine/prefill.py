"""The state of one prefill: which tokens run in which layer.

A *slot* is a token's place in the unpruned sequence. Everything that transformers derives from a sequence (positions,
masks, cache length) is kept in slots, so dropping tokens means gathering by slot and nothing else.
"""

import copy
import zlib
from typing import Any

import torch
from torch import Tensor

from vispco.errors import VispcoError
from vispco.selectors import Selector, SelectorInputs, rank_tokens

FILLER = -1
"""Slot of a place that holds no token: shorter samples of a batch are filled on the left."""


def sample_keys(input_ids: Tensor, real: Tensor) -> Tensor:
    """A number per sample that depends on its real token ids alone; shape (batch,), int64."""
    rows = zip(input_ids.cpu().to(torch.int64), real.cpu(), strict=True)
    keys = [zlib.crc32(ids[mask].numpy().tobytes()) for ids, mask in rows]
    return torch.tensor(keys, dtype=torch.int64)


def gather_slots(values: Tensor, slots: Tensor) -> Tensor:
    """Rows of ``values`` (batch or 1, sequence, ...) at ``slots`` (batch, kept); fillers get row 0."""
    rows = values.expand(slots.shape[0], *values.shape[1:])
    index = slots.clamp(min=0).to(values.device)
    return rows.gather(1, index.reshape(*index.shape, *[1] * (rows.dim() - 2)).expand(*index.shape, *rows.shape[2:]))


def gather_mask(mask: Tensor | None, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The attention mask among the tokens that are left.

    Parameters
    ----------
    mask : Tensor of shape (batch or 1, 1, queries, keys), bool or additive, or None for plain causal
    rows, columns : Tensor, shape (batch, queries'), (batch, keys')
        Slots of queries, relative to the mask's first row, and of keys.

    Returns
    -------
    Tensor of shape (batch, 1, queries', keys') or None
        None stays None while there are no fillers: among ordered survivors causal is causal.
    """
    filler = columns == FILLER
    if mask is None and not bool(filler.any()):
        return None
    if mask is None:
        picked = columns[:, None, :] <= rows[:, :, None]
    else:
        grid = mask[:, 0].expand(rows.shape[0], *mask.shape[2:])
        picked = gather_slots(grid, rows)
        picked = picked.gather(2, columns.clamp(min=0)[:, None].expand(-1, rows.shape[1], -1).to(picked.device))
    # A filler row sees itself: nobody reads it, but a row that sees nothing has no softmax.
    same = (rows[:, :, None] == columns[:, None, :]) & filler[:, None, :]
    if picked.dtype == torch.bool:
        return ((picked & ~filler[:, None, :]) | same)[:, None]
    lowest = torch.finfo(dtype).min
    return picked.masked_fill(filler[:, None, :], lowest).masked_fill(same, 0.0)[:, None]


class Prefill:
    """Follows a batch through the decoder layers of one prefill.

    Parameters
    ----------
    visual, real : Tensor, shape (batch, sequence), bool
        Visual tokens, and tokens that are not padding.
    query : Tensor, shape (batch,)
        Slot of the last prompt token, whose attention scores tokens.
    selector : Selector
    keys : Tensor, shape (batch,)
        See :func:`sample_keys`.
    """

    def __init__(self, visual: Tensor, real: Tensor, query: Tensor, selector: Selector, keys: Tensor):
        self.visual, self.real, self.query, self.selector, self.keys = visual, real, query, selector, keys
        batch, length = visual.shape
        totals = visual.sum(dim=1)
        places = torch.arange(int(totals.max()) if batch else 0, device=visual.device)
        order = torch.where(visual, 0, 1).argsort(dim=1, stable=True)[:, : len(places)]
        self.visual_slots = order
        """Slots of the visual tokens in order, shape (batch, visual); padded where ``alive`` starts False."""
        self.alive = places[None] < totals[:, None]
        """Visual tokens that are still there, shape (batch, visual)."""
        self.slots: Tensor | None = None
        """Slots of the tokens that run, shape (batch, tokens); None while all do."""
        self.last_row: Tensor | None = None
        self.watch = True
        """Whether the layer that runs is one before a cut, so that its attention is worth computing."""
        self._length = length

    def fork(self) -> "Prefill":
        """An independent copy; tensors are shared, as none is ever changed in place."""
        return copy.copy(self)

    def select(self, index: Tensor) -> "Prefill":
        """The prefill of samples ``index`` (which may repeat)."""
        other = self.fork()
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, name, value[index])
        return other

    def observe(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Compute the last prompt token's attention row from a layer's queries and keys (after rotary embedding).

        Parameters
        ----------
        query : Tensor, shape (batch, heads, tokens, head_dim)
        key : Tensor, shape (batch, kv_heads, tokens, head_dim)
        """
        if self.watch and "last_row" in self.selector.needs:
            self.last_row = self._visual_part(self._attention_row(query, key, scaling))

    def _attention_row(self, query: Tensor, key: Tensor, scaling: float) -> Tensor:
        """Softmax over all visible keys, mean over query heads; shape (batch, tokens), float32."""
        row = gather_slots(query.transpose(1, 2), self.place_of(self.query[:, None]))[:, 0]
        groups = row.reshape(row.shape[0], key.shape[1], -1, row.shape[-1])
        logits = (groups @ key.transpose(2, 3)).float() * scaling
        visible = self._visible_keys(key.shape[2])
        heads = logits.masked_fill(~visible[:, None, None], -torch.inf).softmax(dim=-1)
        return self._reweigh(heads).mean(dim=(1, 2))

    def _reweigh(self, heads: Tensor) -> Tensor:
        """Attention rows (batch, kv_heads, groups, tokens) as the tokens that run see them."""
        return heads

    def _visible_keys(self, tokens: int) -> Tensor:
        """Keys that the last prompt token sees; bool, shape (batch, tokens)."""
        if self.slots is None:
            places = torch.arange(tokens, device=self.real.device)
            return self.real & (places[None] <= self.query[:, None])
        return (self.slots != FILLER) & (self.slots <= self.query[:, None])

    def place_of(self, slots: Tensor) -> Tensor:
        """Local places of ``slots`` (batch, any) among the running tokens; arbitrary for slots that are gone."""
        if self.slots is None:
            return slots
        inverse = torch.zeros(len(self.slots), self._length + 1, dtype=torch.int64, device=slots.device)
        places = torch.arange(self.slots.shape[1], device=slots.device).expand_as(self.slots)
        inverse.scatter_(1, self.slots + 1, places)
        return inverse.gather(1, slots + 1)

    def _visual_part(self, row: Tensor) -> Tensor:
        return row.gather(1, self.place_of(self.visual_slots))

    def ranks(self) -> Tensor:
        """Rank of every visual token among those alive, by the selector; shape (batch, visual)."""
        if "last_row" in self.selector.needs and self.last_row is None:
            raise VispcoError("nothing can be dropped before the first layer: its attention is not there yet")
        inputs = SelectorInputs(valid=self.alive, last_row=self.last_row, sample_key=self.keys)
        return rank_tokens(self.selector.score(inputs), self.alive)

    def cut(self, counts: Tensor, hidden: Tensor) -> Tensor:
        """Drop visual tokens at the input of a layer.

        Parameters
        ----------
        counts : Tensor, shape (batch,)
            Visual tokens to keep, per sample.
        hidden : Tensor, shape (batch, tokens, width)

        Returns
        -------
        Tensor, shape (batch, tokens left, width)
            ``hidden`` itself where no sample loses a token.
        """
        counts = counts.to(self.alive.device)
        if bool((self.alive.sum(dim=1) <= counts).all()):
            return hidden
        return self._drop(self.alive & (self.ranks() < counts[:, None]), hidden)

    def _drop(self, alive: Tensor, hidden: Tensor) -> Tensor:
        """Leave only visual tokens ``alive`` (batch, visual) running."""
        kept_visual = torch.zeros_like(self.visual).scatter(1, self.visual_slots, alive)
        kept = self.real & (~self.visual | kept_visual)
        width = int(kept.sum(dim=1).max())
        places = torch.arange(self._length, device=kept.device)
        slots = torch.where(kept, places[None], FILLER).sort(dim=1).values[:, self._length - width :]
        local = self.place_of(slots.clamp(min=0))
        self.alive, self.slots, self.last_row = alive, slots, None
        return gather_slots(hidden, local)

    def layer_arguments(self, arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of a decoder layer for the tokens that run, from those for the whole sequence."""
        if self.slots is None:
            return arguments
        cos, sin = arguments["position_embeddings"]
        positions = arguments.get("position_ids")
        mask = gather_mask(arguments.get("attention_mask"), self.slots, self.slots, dtype)
        return {
            **arguments,
            "position_embeddings": (gather_slots(cos, self.slots), gather_slots(sin, self.slots)),
            "position_ids": None if positions is None else gather_slots(positions, self.slots),
            "attention_mask": mask,
        }

    def scatter_back(self, hidden: Tensor) -> Tensor:
        """Survivors at their slots of the full sequence, zeros elsewhere; shape (batch, sequence, width)."""
        if self.slots is None:
            return hidden
        full = hidden.new_zeros(hidden.shape[0], self._length + 1, hidden.shape[2])
        return full.scatter(1, (self.slots + 1)[..., None].expand_as(hidden), hidden)[:, 1:]
