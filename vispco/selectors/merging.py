"""What methods that merge tokens share: how many each image keeps, and weights of groups."""

import torch
from torch import Tensor

from vispco.selectors.base import Choice


def share_out(counts: Tensor, images: Tensor, valid: Tensor) -> Tensor:
    """How many tokens each image keeps, in proportion to how many it has.

    Every image that has a token keeps one, while ``counts`` suffices. The rest goes to images by largest remainder;
    ties go to the image that comes first.

    Parameters
    ----------
    counts : Tensor, shape (batch,), int64
        At most the valid tokens.
    images : Tensor, shape (batch, visual), int64
    valid : Tensor, shape (batch, visual), bool

    Returns
    -------
    Tensor, shape (batch, images), int64
        At most the valid tokens of each image, ``counts`` together.
    """
    number = int(images.max()) + 1 if images.numel() else 1
    sizes = torch.zeros(len(images), number, dtype=torch.int64, device=images.device)
    sizes = sizes.scatter_add(1, images, valid.long())
    counts = counts.to(images.device)[:, None]
    quota = torch.minimum((sizes > 0).long(), (counts - (sizes > 0).cumsum(dim=1) + 1).clamp(min=0))
    rest, room = counts - quota.sum(dim=1, keepdim=True), sizes - quota
    total = room.sum(dim=1, keepdim=True).clamp(min=1)
    more = rest * room // total
    order = (rest * room - more * total).argsort(dim=1, descending=True, stable=True)
    left = rest - more.sum(dim=1, keepdim=True)
    place = torch.empty_like(order).scatter_(1, order, torch.arange(number, device=order.device).expand_as(order))
    return quota + more + (place < left).long()


def merge_groups(kept: Tensor, target: Tensor, share: Tensor) -> Choice:
    """A choice in which every token goes into one kept token.

    Parameters
    ----------
    kept : Tensor, shape (batch, visual), bool
    target : Tensor, shape (batch, visual), int64
        Index of the kept token that each token goes into; that of a kept token is itself.
    share : Tensor, shape (batch, visual), float32
        Its weight there; 0 for tokens that are not valid, or go nowhere.
    """
    rows = int(kept.sum(dim=1).max()) if len(kept) else 0
    row = (kept.long().cumsum(dim=1) - 1).gather(1, target).clamp(min=0)
    weights = share.new_zeros(len(kept), max(rows, 1), kept.shape[1]).scatter_(1, row[:, None], share[:, None])
    return Choice(kept, weights[:, :rows])
