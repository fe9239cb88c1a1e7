"""Merging: the hidden states of several visual tokens become that of one of them."""

import torch
from torch import Tensor

from vispco.engine.gathering import gather_slots
from vispco.selectors import Choice


class Mixing:
    """Puts weighted sums of visual tokens at the places of those that stay.

    Parameters
    ----------
    choice : Choice
        With weights.
    left : Tensor, shape (batch, left), or None
        Visual tokens that ran before, as numbers among all of them; None if all did.
    """

    def __init__(self, choice: Choice, left: Tensor | None):
        assert choice.weights is not None
        kept, weights = choice.kept, choice.weights
        rows = weights.shape[1]
        self.sources = torch.arange(kept.shape[1], device=kept.device).expand_as(kept) if left is None else left
        self.targets = torch.where(kept, 0, 1).argsort(dim=1, stable=True)[:, :rows]
        """Tokens that stay, in order and padded; shape (batch, kept)."""
        self.real = torch.arange(rows, device=kept.device)[None] < kept.sum(dim=1, keepdim=True)
        self.weights = weights.gather(2, self.sources[:, None].expand(-1, rows, -1))

    def __call__(self, values: Tensor, places: Tensor) -> Tensor:
        """``values`` with sums of what is merged, computed in float32 or better.

        Parameters
        ----------
        values : Tensor, shape (batch, tokens, width)
        places : Tensor, shape (batch, visual)
            Where the visual tokens are among them.
        """
        precision = torch.promote_types(values.dtype, torch.float32)
        parts = gather_slots(values, places.gather(1, self.sources)).to(precision)
        mixed = (self.weights.to(values.device, precision) @ parts).to(values.dtype)
        return self._put(mixed, values, places)

    def add_up(self, sizes: Tensor) -> Tensor:
        """Original tokens in every visual token, shape (batch, visual), from those before."""
        parts = sizes.gather(1, self.sources)[:, None]
        total = torch.where(self.weights > 0, parts, 0.0).sum(dim=2, keepdim=True)
        return self._put(total, sizes[..., None], torch.arange(sizes.shape[1], device=sizes.device)[None])[..., 0]

    def _put(self, rows: Tensor, values: Tensor, places: Tensor) -> Tensor:
        """``values`` with ``rows`` at the places of the tokens that stay."""
        behind = values.shape[1]  # where rows without a token go, to be cut off
        targets = places.expand(len(rows), -1).gather(1, self.targets).masked_fill(~self.real, behind)
        index = targets.to(values.device)[..., None].expand_as(rows)
        return torch.cat([values, values[:, :1]], dim=1).scatter(1, index, rows)[:, :-1]
