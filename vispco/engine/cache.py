"""A key/value cache layer that holds the kept tokens only and reports the unpruned length.

transformers sizes masks and positions from the cache, so as long as every layer answers in slots, decoding goes on from
the unpruned position and nothing has to be patched. State lives with the cache: copies and beams stay right.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from vispco.errors import ModelError


class LogicalLayer(DynamicLayer):
    """``DynamicLayer`` whose tokens carry their slots once some were dropped."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots: Tensor | None = None
        """Slot of every key, shape (batch, keys), -1 for fillers; None while nothing was dropped."""
        self.length = 0
        """Length of the unpruned sequence."""

    def prefill(self, slots: Tensor | None, length: int) -> None:
        """Announce what the first update brings: tokens at ``slots`` of a sequence of ``length``."""
        self.slots, self.length = slots, length

    def grow(self, tokens: int) -> None:
        """Announce ``tokens`` new tokens at the end of the sequence."""
        if self.slots is not None:
            new = torch.arange(self.length, self.length + tokens, device=self.slots.device)
            self.slots = torch.cat([self.slots, new.expand(len(self.slots), -1)], dim=1)
        self.length += tokens

    def get_seq_length(self) -> int:
        """Length of the unpruned sequence."""
        return self.length if self.is_initialized else 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens."""
        super().crop(tokens_to_remove)
        if tokens_to_remove:
            self.length -= abs(tokens_to_remove)
            if self.slots is not None:
                self.slots = self.slots[:, : -abs(tokens_to_remove)]

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.slots, self.length = None, 0

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
            self.slots = self.slots[indices]


def take_over(cache: Any, layers: int) -> list[LogicalLayer]:
    """Put logical layers into an empty cache.

    Raises
    ------
    ModelError
        If the cache is not a dynamic one.
    """
    if not isinstance(cache, Cache) or type(cache) is not DynamicCache:
        raise ModelError(f"{type(cache).__name__} cannot hold layers of different length; use the default DynamicCache")
    logical = [LogicalLayer() for _ in range(layers)]
    cache.layers = list(logical)
    return logical
