"""One forward of the model: the states of its layers, and what is known when they are done."""

import warnings
from typing import Any

import torch
from torch import Tensor

from vispco.engine.prefill import Prefill
from vispco.engine.prompt import IGNORED
from vispco.selectors import Choice


class Forward:
    """One prefill on its way through the decoder layers.

    Parameters
    ----------
    input_ids : Tensor, shape (batch, sequence)
    start : Prefill
    counts : Tensor, shape (layers, batch)
        Visual tokens to keep.
    labels : Tensor, shape (batch, sequence), or None
        Our own copy: targets that follow dropped tokens are struck out of it.
    given : list of Choice, one per layer, or None
        Which tokens to keep, if that was decided before: they are gathered even where none is dropped.
    """

    def __init__(
        self,
        input_ids: Tensor,
        start: Prefill,
        counts: Tensor,
        labels: Tensor | None = None,
        given: list[Choice] | None = None,
    ):
        self.input_ids, self.counts, self.labels, self.given = input_ids, counts, labels, given
        self.states = [start]
        """State before the first layer, then that of every layer."""

    def enter(self, layer: int, hidden: Tensor, arguments: dict[str, Any]) -> tuple[Prefill, Tensor]:
        """State and input of ``layer``; the same ones if gradient checkpointing runs the layer again."""
        before = self.states[layer]
        if layer + 1 < len(self.states):
            state = self.states[layer + 1]
            return state, state.enter_again(layer, before, hidden)
        given = self.given[layer] if self.given else None
        state, hidden = before.enter(layer, self.counts[layer], hidden, arguments, given)
        state.watch = not self.given and bool((self.counts[layer + 1 : layer + 2] < self.counts[layer]).any())
        self.states.append(state)
        return state, hidden

    @property
    def choices(self) -> list[Choice]:
        """Visual tokens that ran in each layer, and what was merged at its input."""
        return [Choice(state.alive, state.merged) for state in self.states[1:]]

    def is_continued_by(self, input_ids: Tensor) -> bool:
        """Whether ``input_ids`` are those of this forward with one token more."""
        batch, length = self.input_ids.shape
        return input_ids.shape == (batch, length + 1) and torch.equal(input_ids[:, :-1], self.input_ids)

    def strike_lost_targets(self) -> None:
        """Leave targets that are predicted from dropped tokens out of the loss: those rows have no logits."""
        last = self.states[-1]
        if self.labels is None or last.slots is None:
            return
        targets = self.labels[:, 1:]
        lost = ~last.running()[:, :-1].to(targets.device) & (targets != IGNORED)
        if bool(lost.any()):
            warnings.warn(
                f"{int(lost.sum())} targets follow dropped tokens or padding; the loss leaves them out", stacklevel=2
            )
            targets[lost] = IGNORED
