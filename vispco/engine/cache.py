"""A key/value cache layer that holds the kept tokens only and reports the unpruned length.

transformers sizes masks and positions from the cache, so as long as every layer answers in slots, decoding goes on from
the unpruned position and nothing has to be patched. State lives with the cache: copies and beams stay right.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vispco.engine import compat, refusals
from vispco.errors import ModelError


class LogicalLayer(DynamicLayer):
    """A growing cache layer whose tokens carry their slots once some were dropped.

    Parameters
    ----------
    window : int or None
        Sliding window of the layer's attention, in slots. As many keys less one are stored: at least those in sight.
    """

    def __init__(self, window: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window = window
        self.is_sliding = window is not None
        self.record_past = False
        """Whether keys out of the window are kept, as assisted decoding asks to be able to step back."""
        self.slots: Tensor | None = None
        """Slot of every key, shape (batch, keys), -1 for fillers; None while nothing was dropped."""
        self.fillers = False
        """Whether ``slots`` has places without a token."""
        self.length = 0
        """Length of the unpruned sequence."""
        self._expected: tuple[Tensor | None, int] | None = None

    def expect(self, slots: Tensor | None, fillers: bool, length: int) -> None:
        """Announce what the first update brings: tokens at ``slots`` of a sequence of ``length``."""
        self._expected, self.fillers = (slots, length), fillers

    def visible_slots(self, tokens: int) -> Tensor | None:
        """Slots of the keys that the next ``tokens`` tokens meet, their own included; shape (batch, keys)."""
        if self.slots is None:
            return None
        new = torch.arange(self.length, self.length + tokens, device=self.slots.device)
        return self._in_window(torch.cat([self.slots, new.expand(len(self.slots), -1)], dim=1), tokens, dim=1)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store new keys and values; the answer is what the new tokens attend to.

        Parameters
        ----------
        key_states, value_states : Tensor, shape (batch, kv_heads, tokens, head_dim)
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        tokens = key_states.shape[-2]
        if self._expected is not None:
            (self.slots, self.length), self._expected = self._expected, None
        else:
            self.slots, self.length = self.visible_slots(tokens), self.length + tokens
        assert self.keys is not None
        assert self.values is not None
        self.keys = torch.cat([self.keys, key_states], dim=-2)
        self.values = torch.cat([self.values, value_states], dim=-2)
        visible = self._in_window(self.keys, tokens, dim=2), self._in_window(self.values, tokens, dim=2)
        if not self.record_past:
            self._forget_unseen()
        return visible

    def _in_window(self, values: Tensor, tokens: int, dim: int) -> Tensor:
        """The last of ``values`` that the window of the first of ``tokens`` new tokens may reach."""
        if self.window is None:
            return values
        number = min(values.shape[dim], self.window - 1 + tokens)
        return values.narrow(dim, values.shape[dim] - number, number)

    def _forget_unseen(self) -> None:
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self._in_window(self.keys, 0, dim=2), self._in_window(self.values, 0, dim=2)
        if self.slots is not None:
            self.slots = self._in_window(self.slots, 0, dim=1)

    def activate_past_recording(self) -> None:
        """Keep all keys until the next :meth:`crop`."""
        self.record_past = True

    def get_seq_length(self) -> int:
        """Length of the unpruned sequence."""
        return self.length if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of columns of a mask over slots, and the slot of the first."""
        first = 0 if self.window is None else max(self.length - self.window + 1, 0)
        return self.length + query_length - first, first

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; the argument is that of :func:`vispco.engine.compat.tokens_to_remove`."""
        removed = compat.tokens_to_remove(tokens_to_remove, self.length)
        if removed > 0 and self.is_initialized:
            if self.window is not None and self.length >= self.window and not self.record_past:
                raise RuntimeError("keys before the sliding window are gone; call activate_past_recording first")
            assert self.keys is not None
            assert self.values is not None
            self.keys, self.values = self.keys[..., :-removed, :], self.values[..., :-removed, :]
            self.length -= removed
            if self.slots is not None:
                self.slots = self.slots[:, :-removed]
        if self.is_initialized:
            self._forget_unseen()

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = self.slots = self._expected = None
        self.is_initialized, self.fillers, self.length = False, False, 0

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Follow the beams that go on."""
        super().reorder_cache(beam_idx)
        if self.slots is not None:
            self.slots = self.slots.index_select(0, beam_idx.to(self.slots.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)
        if self.slots is not None:
            self.slots = self.slots.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with some samples only."""
        super().batch_select_indices(indices)
        if self.slots is not None:
            self.slots = self.slots[indices.to(self.slots.device)]


def take_over(cache: Any, layers: int) -> list[LogicalLayer]:
    """Put logical layers into an empty cache, with the sliding windows of the layers that were there.

    A cache made without a configuration has no layers yet and stores whole sequences, whatever masks show of them.

    Raises
    ------
    ModelError
        If the cache is not a dynamic one.
    """
    if type(cache) is not DynamicCache:
        raise ModelError(
            f"{type(cache).__name__} cannot hold layers of different length ({refusals.CACHES}); use the default "
            "DynamicCache"
        )
    logical = [LogicalLayer(getattr(layer, "sliding_window", None)) for layer in cache.layers]
    for layer, before in zip(logical, cache.layers, strict=True):
        layer.record_past = getattr(before, "record_past", False)
    logical = logical or [LogicalLayer() for _ in range(layers)]
    cache.layers = list(logical)
    return logical
