"""The tokens of a batch that run in one decoder layer.

A *slot* is a token's place in the unpruned sequence. Everything that transformers derives from a sequence (positions,
masks, cache length) is kept in slots, so dropping tokens means gathering by slot and nothing else. Every layer has a
state of its own, which is not changed once the layer has run: gradient checkpointing may run the layer again.
"""

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from vispco.engine.gathering import FILLER, gather_mask, gather_padding, gather_slots, gather_table
from vispco.engine.mixing import Mixing
from vispco.errors import ModelError
from vispco.selectors import Choice


class Running:
    """A batch before, in and after one decoder layer.

    Parameters
    ----------
    visual, real : Tensor, shape (batch, sequence), bool
        Visual tokens, and tokens that are not padding.
    added : sequence of Tensor, shape (batch, sequence, width)
        What the decoder adds to the output of its first layers (DeepStack), one tensor per layer.
    """

    def __init__(self, visual: Tensor, real: Tensor, added: Sequence[Tensor] = ()):
        self.visual, self.real = visual, real
        self.added = dict(enumerate(added))
        """What is still to be added, by layer."""
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
        self.slots: Tensor | None = None
        """Slots of the tokens that run, shape (batch, tokens); None while all do."""
        self.fillers = False
        """Whether ``slots`` has places without a token."""
        self.left: Tensor | None = None
        """Places of the visual tokens that run among all of them, shape (batch, left), padded; None while all do."""
        self.policy: Tensor | None = None
        """Weight of every token that runs, shape (batch, tokens), if they are weighted."""
        self.tail: int | None = None
        """How many tokens at the end of a weighted layer's output anybody will look at; None for all."""
        self.sizes = self.alive.float()
        """Original tokens in every visual token, shape (batch, visual)."""
        self.merged: Tensor | None = None
        """Weights with which tokens were merged at this layer's input, as of :class:`vispco.selectors.Choice`."""
        self._places: Tensor | None = None
        self._sources: Tensor
        self._mixing: Mixing
        self._gathered: dict[int, tuple[Any, Any]] = {}

    def fork(self) -> Self:
        """An independent copy; tensors are shared, as none is ever changed in place."""
        other = copy.copy(self)
        other._places, other.merged = None, None
        return other

    def select(self, index: Tensor) -> Self:
        """The prefill of samples ``index`` (which may repeat)."""
        other = self.fork()
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, name, value[index.to(value.device)])
            if isinstance(value, dict) and name != "_gathered":
                setattr(other, name, {key: part[index.to(part.device)] for key, part in value.items()})
        other._gathered = {}
        return other

    def complete(self, layer: int, hidden: Tensor) -> Tensor:
        """The output of ``layer`` with what the decoder adds to it; shape (batch, tokens, width)."""
        if layer not in self.added:
            return hidden
        if self.added[layer].requires_grad and not torch.is_grad_enabled():
            # Only a reentrant checkpoint around our hooks turns gradients off between vision tower and layer.
            raise ModelError(
                "reentrant gradient checkpointing loses the gradient of DeepStack features on transformers before "
                "5.23; pass use_reentrant=False or freeze the vision tower"
            )
        added = self.added[layer] if self.slots is None else gather_slots(self.added[layer], self.slots)
        return hidden + added.to(hidden.device, hidden.dtype)

    def drop(self, choice: Choice, counts: Tensor, hidden: Tensor) -> Tensor:
        """Leave only some visual tokens running.

        Parameters
        ----------
        choice : Choice
        counts : Tensor, shape (batch,)
            How many it keeps, on the CPU.
        hidden : Tensor, shape (batch, tokens, width)

        Returns
        -------
        Tensor, shape (batch, tokens left, width)
        """
        if choice.weights is not None:
            hidden = self._merge(choice, hidden)
        alive = self.alive & choice.kept
        kept_visual = torch.zeros_like(self.visual).scatter(1, self.visual_slots, alive)
        kept = self.real & (~self.visual | kept_visual)
        tokens = self.text + counts
        width = int(tokens.max())
        places = torch.arange(self._length, device=kept.device)
        slots = torch.where(kept, places[None], FILLER).sort(dim=1).values[:, self._length - width :]
        self._places = self.place_of(slots.clamp(min=0))
        self.alive, self.counts, self.slots = alive, counts, slots
        self.left = torch.where(alive, 0, 1).argsort(dim=1, stable=True)[:, : int(counts.max())]
        self.fillers = bool((tokens < width).any())
        self._gathered = {}
        return gather_slots(hidden, self._places)

    def _merge(self, choice: Choice, hidden: Tensor) -> Tensor:
        """Put tokens together: here, and in what the decoder adds later."""
        self.merged = choice.weights
        self._mixing = Mixing(choice, self.left)
        self.added = {layer: self._mixing(value, self.visual_slots) for layer, value in self.added.items()}
        self.sizes = self._mixing.add_up(self.sizes)
        self._sources = self.place_of(self.visual_slots)
        return self._mixing(hidden, self._sources)

    def drop_again(self, hidden: Tensor) -> Tensor:
        """What :meth:`drop` did to ``hidden``, once more."""
        if self._places is None:
            return hidden
        return gather_slots(hidden if self.merged is None else self._mixing(hidden, self._sources), self._places)

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
