"""Ranks of tokens, and the check that what they are made of are numbers."""

import torch
from torch import Tensor

from vispco.errors import VispcoError


def rank_tokens(scores: Tensor, valid: Tensor) -> Tensor:
    """Rank of every token, 0 the best; ties go to the lower index, invalid tokens come last.

    Parameters
    ----------
    scores : Tensor, shape (batch, visual)
    valid : Tensor, shape (batch, visual), bool

    Returns
    -------
    Tensor, shape (batch, visual), int64

    Raises
    ------
    VispcoError
        If a valid token's score is not a number.
    """
    check_finite(scores, valid)
    # Finite scores may be -inf themselves, so validity is a sort key of its own: stable sort, last key first.
    by_score = scores.masked_fill(~valid, 0.0).argsort(dim=-1, descending=True, stable=True)
    by_validity = valid.gather(-1, by_score).to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return places_of(by_score.gather(-1, by_validity))


def places_of(order: Tensor) -> Tensor:
    """Inverse of a permutation along the last dimension."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def places_in(picks: Tensor, valid: Tensor) -> Tensor:
    """Ranks from a complete order of picks (batch, visual), whose picks after the last valid token are arbitrary."""
    steps = picks.shape[1]
    real = torch.arange(steps, device=picks.device)[None] < valid.sum(dim=1, keepdim=True)
    first = torch.full_like(picks, steps).scatter_reduce(
        1, picks, torch.where(real, torch.arange(steps, device=picks.device)[None], steps), "amin"
    )
    return places_of(torch.where(valid, first, steps).argsort(dim=1, stable=True))


def check_finite(signal: Tensor, valid: Tensor) -> None:
    """Refuse a signal that is not a number where it counts.

    Parameters
    ----------
    signal : Tensor, shape (batch, visual, ...)
    valid : Tensor, shape (batch, visual), bool

    Raises
    ------
    VispcoError
        The model's numbers are broken, and a choice made from them would be arbitrary.
    """
    broken = signal.isnan().reshape(*valid.shape, -1).any(dim=-1) if signal.numel() else ~valid & valid
    if bool((broken & valid).any()):
        raise VispcoError("a selector met NaN; the model's attention or hidden states hold NaN")
