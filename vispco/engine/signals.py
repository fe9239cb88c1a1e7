"""Signals for selectors: what they declare in ``needs``, computed from what passes through a layer.

No signal needs a full attention map. Rows of attention are computed from queries and keys on their way to the attention
function; where many rows are needed, a few at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vispco.engine.families import Family
from vispco.engine.gathering import FILLER, gather_slots
from vispco.engine.seen import ARGUMENT, Seen
from vispco.errors import ModelError

CHUNK = 64
"""Rows of attention that are computed at once where a signal needs many."""


class _Stop(Exception):
    """Ends a glance once queries and keys are there."""


class _Glance:
    """In the place of a prefill: takes queries and keys, and ends the attention module's forward."""

    policy = None

    def __init__(self) -> None:
        self.seen: Seen | None = None

    def observe(self, seen: Seen) -> None:
        """Take them."""
        self.seen = seen
        raise _Stop


def glance(family: Family, layer: int, hidden: Tensor, arguments: dict[str, Any], *, rotated: bool) -> Seen:
    """Queries and keys that ``layer`` would make of ``hidden``, without its attention.

    Parameters
    ----------
    family : Family
    layer : int
    hidden : Tensor, shape (batch, tokens, width)
    arguments : dict
        Arguments of the layer for the tokens that run.
    rotated : bool
        Whether rotary positions are applied.
    """
    module: Any = family.layers[layer]
    given = {**arguments, "past_key_values": None, ARGUMENT: (taken := _Glance())}
    if not rotated:
        cos, sin = arguments["position_embeddings"]
        given["position_embeddings"] = torch.ones_like(cos), torch.zeros_like(sin)
    with suppress(_Stop):
        module.self_attn(hidden_states=module.input_layernorm(hidden), **given)
    assert taken.seen is not None
    return taken.seen


class Sight:
    """The tokens that run in a layer, and how rows of its attention look at them.

    Parameters
    ----------
    seen : Seen
    place_of : callable
        From slots (batch, any) to places among the tokens that run.
    slots : Tensor, shape (batch, tokens), or None
        Slots of the tokens that run; None if all do.
    real : Tensor, shape (batch, sequence), bool
    reweigh : callable
        From attention (batch, kv_heads, groups, rows, tokens) to what weighted keys make of it.
    """

    def __init__(
        self,
        seen: Seen,
        place_of: Callable[[Tensor], Tensor],
        slots: Tensor | None,
        real: Tensor,
        reweigh: Callable[[Tensor], Tensor],
    ):
        self.seen, self.place_of, self.slots, self.real, self.reweigh = seen, place_of, slots, real, reweigh

    def heads(self, rows: Tensor, columns: Tensor | None = None) -> Tensor:
        """Attention of some tokens.

        Parameters
        ----------
        rows : Tensor, shape (batch, rows)
            Slots of the tokens that look.
        columns : Tensor, shape (batch, columns), or None
            Slots of the only tokens that are looked at: a softmax over them alone. All that are visible if None.

        Returns
        -------
        Tensor, shape (batch, heads, rows, tokens), float32
        """
        seen = self.seen
        places = self.place_of(rows).to(seen.query.device)
        query = gather_slots(seen.query.transpose(1, 2), places).transpose(1, 2)
        batch, _, number, width = query.shape
        groups = query.reshape(batch, seen.key.shape[1], -1, width)
        logits = (groups @ seen.key.transpose(2, 3)).float() * seen.scaling
        if seen.softcap is not None:
            logits = seen.softcap * torch.tanh(logits / seen.softcap)
        logits = logits.reshape(batch, seen.key.shape[1], -1, number, seen.key.shape[2])
        visible = self._visible(rows, places)
        if columns is not None:
            only = torch.zeros_like(visible[:, 0]).scatter(1, self.place_of(columns).to(visible.device), True)
            visible = visible & only[:, None]
        visible = visible.to(logits.device)[:, None, None]
        heads = logits.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        # A row that sees nothing has no softmax; any other NaN is the model's, and for the selector to refuse.
        return self.reweigh(heads.masked_fill(~visible.any(dim=-1, keepdim=True), 0.0)).flatten(1, 2)

    def _visible(self, rows: Tensor, places: Tensor) -> Tensor:
        """Keys that tokens at slots ``rows`` see; bool, shape (batch, rows, tokens)."""
        mask = self.seen.mask
        if mask is not None and mask.dim() == 4:
            picked = gather_slots(mask[:, 0], places.to(mask.device))
            return picked if picked.dtype == torch.bool else picked >= 0
        if self.slots is None:
            slots = torch.arange(self.real.shape[1], device=self.real.device)[None]
            return self.real[:, None] & (slots <= rows[..., None])
        return (self.slots != FILLER)[:, None] & (self.slots[:, None] <= rows[..., None])

    def on(self, columns: Tensor, rows: Tensor) -> Tensor:
        """Attention (batch, rows, tokens) on tokens at slots ``columns`` (batch, columns); (batch, rows, columns)."""
        places = self.place_of(columns).to(rows.device)
        return rows.gather(2, places[:, None].expand(-1, rows.shape[1], -1))

    def chunks(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """:meth:`heads` of many rows, some at a time."""
        for start in range(0, rows.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            yield part, self.heads(rows[:, part])


@dataclass(frozen=True)
class Tokens:
    """Slots of the tokens that signals are about.

    Attributes
    ----------
    visual : Tensor, shape (batch, visual)
        Slots of the visual tokens, padded.
    alive : Tensor, shape (batch, visual), bool
        Those that are there.
    question : Tensor, shape (batch, question)
        Slots of the text tokens after the last visual one, up to the last prompt token; padded.
    asked : Tensor, shape (batch, question), bool
        Those that are no padding.
    last : Tensor, shape (batch,)
        Slot of the last prompt token.
    """

    visual: Tensor
    alive: Tensor
    question: Tensor
    asked: Tensor
    last: Tensor


def find_question(visual: Tensor, real: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Slots of the question and which of them are no padding; see :class:`Tokens`.

    Parameters
    ----------
    visual, real : Tensor, shape (batch, sequence), bool
    last : Tensor, shape (batch,)
    """
    places = torch.arange(visual.shape[1], device=visual.device)
    end = torch.where(visual, places, -1).amax(dim=1, keepdim=True)
    question = real & (places > end) & (places <= last[:, None])
    number = question.sum(dim=1)
    order = torch.where(question, 0, 1).argsort(dim=1, stable=True)[:, : int(number.max()) if len(number) else 0]
    return order, torch.arange(order.shape[1], device=visual.device)[None] < number[:, None]


def _last_row(sight: Sight, tokens: Tokens) -> dict[str, Tensor]:
    return {"last_row": sight.on(tokens.visual, sight.heads(tokens.last[:, None]).mean(dim=1))[:, 0]}


def _visual_row(sight: Sight, tokens: Tokens) -> dict[str, Tensor]:
    last = torch.where(tokens.alive, tokens.visual, 0).amax(dim=1, keepdim=True)
    return {"visual_row": sight.on(tokens.visual, sight.heads(last).mean(dim=1))[:, 0]}


def _question_rows(sight: Sight, tokens: Tokens) -> dict[str, Tensor]:
    rows = sight.on(tokens.visual, sight.heads(tokens.question).mean(dim=1))
    return {"question_rows": rows * tokens.asked.to(rows.device)[..., None]}


def _question_heads(sight: Sight, tokens: Tokens) -> dict[str, Tensor]:
    heads = sight.heads(tokens.question)
    rows = sight.on(tokens.visual, heads.flatten(1, 2)).unflatten(1, heads.shape[1:3])
    return {"question_heads": rows * tokens.asked.to(rows.device)[:, None, :, None]}


def _cross_mass(sight: Sight, tokens: Tokens) -> dict[str, Tensor]:
    rows = sight.on(tokens.visual, sight.heads(tokens.question).amax(dim=1))
    return {"cross_mass": (rows * tokens.asked.to(rows.device)[..., None]).sum(dim=1)}


def _self_mass(sight: Sight, tokens: Tokens) -> dict[str, Tensor]:
    total = torch.zeros(tokens.visual.shape, dtype=torch.float32, device=sight.seen.key.device)
    alive = tokens.alive.to(total.device)
    for part, heads in sight.chunks(tokens.visual):
        total += (sight.on(tokens.visual, heads.amax(dim=1)) * alive[:, part, None]).sum(dim=1)
    return {"self_mass": total / alive.sum(dim=1, keepdim=True).clamp(min=1)}


def _keys(sight: Sight, tokens: Tokens) -> dict[str, Tensor]:
    keys = sight.seen.key.transpose(1, 2).flatten(2).float()
    visual, question = (gather_slots(keys, sight.place_of(slots)) for slots in (tokens.visual, tokens.question))
    return {"keys": visual, "question_keys": question}


OBSERVED: dict[str, Callable[[Sight, Tokens], dict[str, Tensor]]] = {
    "last_row": _last_row,
    "visual_row": _visual_row,
    "question_rows": _question_rows,
    "question_heads": _question_heads,
    "cross_mass": _cross_mass,
    "self_mass": _self_mass,
    "keys": _keys,
}
"""Signals that come out of the attention of the layer before a cut."""


def next_row(sight: Sight, tokens: Tokens) -> Tensor:
    """Attention of the last prompt token in the layer after a cut; shape (batch, visual)."""
    return _last_row(sight, tokens)["last_row"]


def unrotated_row(sight: Sight, tokens: Tokens) -> Tensor:
    """The same over visual tokens alone, whose keys and query have no rotary positions; shape (batch, visual)."""
    first = tokens.visual.gather(1, tokens.alive.long().argmax(dim=1, keepdim=True))
    there = torch.where(tokens.alive, tokens.visual, first)
    return sight.on(tokens.visual, sight.heads(tokens.last[:, None], there).mean(dim=1))[:, 0]


def question_decay(tables: tuple[Tensor, Tensor], tokens: Tokens, head_dim: int) -> Tensor:
    """Scaled products of all-ones queries and keys with rotary positions; shape (batch, question, visual), float32.

    A pair of dimensions contributes twice the cosine of its angle between two tokens, dimensions that are not rotated
    one each; all of it over the root of ``head_dim``.

    Parameters
    ----------
    tables : pair of Tensor, shape (batch or 1, sequence, rotated dimensions)
        Cosines and sines of all slots.
    tokens : Tokens
    head_dim : int
    """
    table = torch.cat(tables, dim=-1).float()
    question, visual = gather_slots(table, tokens.question), gather_slots(table, tokens.visual)
    constant = head_dim - tables[0].shape[-1]
    decay: Tensor = (question @ visual.transpose(1, 2) + constant) / head_dim**0.5
    return decay


def square_grid(images: Tensor, alive: Tensor) -> Tensor:
    """Rows and columns of visual tokens whose images are square; int64, shape (batch, visual, 2).

    Raises
    ------
    ModelError
        If an image has not a square number of tokens.
    """
    places = torch.arange(images.shape[1], device=images.device).expand_as(images)
    first = torch.full_like(images, images.shape[1]).scatter_reduce(1, images, places, "amin")
    size = torch.zeros_like(images).scatter_add(1, images, alive.long()).gather(1, images)
    side = size.double().sqrt().round().long()
    if bool(((side * side != size) & alive).any()):
        odd = int(size[(side * side != size) & alive][0])
        raise ModelError(
            f"an image of {odd} visual tokens is no square, and this family does not tell its rows; choose a selector "
            "that needs no grid"
        )
    local = places - first.gather(1, images)
    return torch.stack([local // side.clamp(min=1), local % side.clamp(min=1)], dim=-1)
