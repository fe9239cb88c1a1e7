"""Whole quotas in proportion to weights, where no part takes more than it has room for."""

import torch
from torch import Tensor

from vispco.schedule import SNAP
from vispco.selectors.ranking import places_of

GRID = 2**30
"""Shares are whole numbers of 1/GRID tokens, so that rounding does not break ties or make less of a whole share."""


def apportion(total: Tensor, weights: Tensor, room: Tensor, heaviest: bool = False) -> Tensor:
    """Share out a number of tokens among parts in proportion to their weights.

    Every part gets the whole number below its share ``total w_p / sum w``. What that leaves over goes out one by one,
    to the parts of the largest remainder or of the largest weight. What a part has no room for is shared out in the
    same way among the parts that still have room, and so on. Parts whose weights are all 0 count alike.

    Parameters
    ----------
    total : Tensor, shape (batch,), int64
    weights : Tensor, shape (batch, parts)
        Those below 0 count as 0.
    room : Tensor, shape (batch, parts), int64
        The most that each part can get.
    heaviest : bool
        What is left over goes to the largest weights, not to the largest remainders. Ties go to the first part in both.

    Returns
    -------
    Tensor, shape (batch, parts), int64
        ``total`` together, or all the room if that is less.
    """
    weights, quota = weights.double().clamp(min=0), torch.zeros_like(room)
    # A round in which no part is short of room is the last that does anything, and any other fills a part.
    for _ in range(room.shape[1]):
        left, fits = (total - quota.sum(dim=1))[:, None], room > quota
        weight = torch.where(fits, weights, 0.0)
        weight = torch.where(weight.sum(dim=1, keepdim=True) > 0, weight, fits.double())
        share = (left * weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-300) * GRID).round().long()
        whole = share // GRID
        first = (share if heaviest else share % GRID).masked_fill(~fits, -1)
        turn = places_of(first.argsort(dim=1, descending=True, stable=True))
        more = fits & (turn < left - whole.sum(dim=1, keepdim=True))
        quota = quota + torch.minimum(whole + more.long(), room - quota)
    return quota


def fraction(counts: Tensor, part: float) -> Tensor:
    """The whole number below ``counts * part``, int64; 100 * 0.29 is 29, whatever floats make of it."""
    return torch.floor(counts.double() * part + SNAP).long()
