"""Bytes: what the key/value cache holds after the prefill, and the most that a prefill needs at once."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from vispco.cost.base import Cost, Prompt
from vispco.cost.shape import sliding_windows


class KvCost(Cost):
    """Bytes of keys and values that the cache holds after the prefill.

    Of a layer with ``n`` tokens, ``G`` key/value heads of ``D`` dimensions and numbers of ``s`` bytes::

        2 G D s n                 full attention
        2 G D s min(n, W - 1)     sliding window of W, of which the cache keeps all but the place of the next token

    Parameters
    ----------
    config, tokens
        As of :class:`vispco.cost.base.Cost`.
    dtype : torch.dtype
    """

    name, unit = "kv", "bytes"

    def __init__(self, config: Any, tokens: Sequence[tuple[int, ...]], dtype: torch.dtype):
        self.windows, self.bytes = sliding_windows(config), dtype.itemsize
        self._most = torch.tensor([window - 1 if window else math.inf for window in self.windows], dtype=torch.float64)
        super().__init__(config, tokens, dtype=dtype)

    def spent(self, prompt: Prompt, counts: Sequence[int]) -> float:
        """Bytes of one sample."""
        return float(sum(self.held(prompt, counts)))

    def held(self, prompt: Prompt, counts: Sequence[int]) -> list[int]:
        """Bytes of every layer."""
        tokens = [
            prompt.text + count if window is None else min(prompt.text + count, window - 1)
            for count, window in zip(counts, self.windows, strict=True)
        ]
        return [self.shape.kv_numbers * self.bytes * number for number in tokens]

    def soft_held(self, visual: Tensor) -> Tensor:
        """Bytes of every layer for fractions of tokens; shape of ``visual``."""
        tokens = torch.minimum(self.text + visual, self._most[:, None])
        return self.shape.kv_numbers * self.bytes * tokens

    def soft_spent(self, visual: Tensor) -> Tensor:
        """The same for fractions of tokens."""
        return self.soft_held(visual).sum(dim=-2)


class PeakCost(KvCost):
    """An estimate of the most bytes that a prefill needs at once besides the weights.

    While a layer's gated MLP multiplies its branches, these are there: the layer's input, which the decoder holds on
    to, the MLP's input and that input normed, three vectors of the hidden width ``d`` per token; the activated gate,
    the other branch and their product, three of the MLP's width ``m``. Beside them stands the decoder's input (all
    ``N`` tokens), and the cache as far as it is filled::

        max over layers l of  s (d N + (3 d + 3 m) n_l) + cache of layers 0..l

    It does not count what attention needs inside one operation, rotary tables, nor the vision tower.
    """

    name, unit = "peak", "bytes"

    def spent(self, prompt: Prompt, counts: Sequence[int]) -> float:
        """Bytes of one sample."""
        work = [self._per_token * (prompt.text + count) for count in counts]
        filled = accumulate(self.held(prompt, counts))
        embeddings = self.bytes * self.shape.hidden * prompt.total
        return float(embeddings + max(map(sum, zip(work, filled, strict=True))))

    def soft_spent(self, visual: Tensor) -> Tensor:
        """The same for fractions of tokens."""
        filled = self.soft_held(visual).cumsum(dim=-2)
        embeddings = self.bytes * self.shape.hidden * (self.text + self.visual)
        return embeddings + (self._per_token * (self.text + visual) + filled).amax(dim=-2)

    @property
    def _per_token(self) -> int:
        return self.bytes * (3 * self.shape.hidden + 3 * self.shape.mlp)
