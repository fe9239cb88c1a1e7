"""Covering: distances between directions, and the greedy walk to the farthest point.

Both DivPrune and MoB compare directions by ``1 - cos``. Here the distance is the chord ``|u - v|`` of unit rows, which
puts everything in the same order, as ``|u - v|^2 = 2 (1 - cos)``. It is taken from the difference of two rows and not
from a product of matrices: a duplicate is at distance exactly 0, and no distance depends on where a token stands or on
what else is in the batch, so ties are ties.
"""

import torch
from torch import Tensor
from torch.nn import functional

from vispco.selectors.ranking import check_finite

CHUNK = 128
"""Rows at a time where every pair is looked at, so that the square matrix never exists."""

FAR = 4.0
"""Longer than any chord."""


def unit_rows(signal: Tensor, there: Tensor) -> Tensor:
    """Rows at length 1; a row of zeros stays as it is, and one that does not count becomes zeros.

    Parameters
    ----------
    signal : Tensor, shape (batch, rows, width), float32
    there : Tensor, shape (batch, rows), bool
        Rows that count.

    Raises
    ------
    VispcoError
        If a row that counts holds NaN or an infinity, which have no direction.
    """
    # First by the largest entry: squares of very large and very small numbers do not fit into float32.
    scale = signal.abs().amax(dim=-1, keepdim=True)
    unit = functional.normalize(signal / torch.where(scale > 0, scale, 1.0), dim=-1)
    check_finite(unit, there)
    return unit.masked_fill(~there[..., None], 0.0)


def chords(rows: Tensor, others: Tensor) -> Tensor:
    """Distances ``|u - v|`` of shape (batch, rows, others) between unit rows."""
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def nearest(rows: Tensor, others: Tensor, others_there: Tensor) -> Tensor:
    """Distance of every row to the nearest of the others that count; infinite if there is none.

    Parameters
    ----------
    rows, others : Tensor, shape (batch, rows or others, width)
        Unit rows.
    others_there : Tensor, shape (batch, others), bool

    Returns
    -------
    Tensor, shape (batch, rows)
    """
    gaps = chords(rows, others).masked_fill(~others_there[:, None], torch.inf)
    return functional.pad(gaps, (0, 1), value=torch.inf).amin(dim=-1)


def covering_radius(rows: Tensor, there: Tensor, centres: Tensor, centres_there: Tensor) -> Tensor:
    """One-sided Hausdorff distance ``max_rows min_centres |u - v|``, shape (batch,); 0 where there are no rows."""
    gaps = nearest(rows, centres, centres_there).masked_fill(~there, 0.0)
    return functional.pad(gaps, (0, 1)).amax(dim=-1)


def chosen_rows(unit: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a ragged choice side by side.

    Parameters
    ----------
    unit : Tensor, shape (batch, rows, width)
    chosen : Tensor, shape (batch, rows), bool

    Returns
    -------
    tuple of Tensor
        The chosen rows, shape (batch, most, width) with the longest choice of the batch, and which of them count.
    """
    most = max([0, *chosen.sum(dim=1).tolist()])
    index = chosen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return _take(unit, index), chosen.gather(1, index)


def seed_gaps(unit: Tensor, valid: Tensor) -> Tensor:
    """Distances to start :func:`farthest_points` with where nothing is picked yet.

    The first pick will be the token whose nearest other token is farthest; ties go to the lower index.

    Parameters
    ----------
    unit : Tensor, shape (batch, visual, width)
        Unit rows; at least one token.
    valid : Tensor, shape (batch, visual), bool

    Returns
    -------
    Tensor, shape (batch, visual)
        Infinite for that token, ``FAR`` for the others, -inf for those that are not valid.
    """
    gaps, away = [], unit.new_zeros(valid.shape).masked_fill(~valid, -torch.inf)[:, None]
    for start in range(0, unit.shape[1], CHUNK):
        rows = unit[:, start : start + CHUNK]
        cosines = torch.baddbmm(away, rows, unit.mT)
        cosines.diagonal(start, 1, 2).fill_(-torch.inf)
        # The product only says who is nearest. The distance itself is the difference, which is the same for both of two
        # tokens that are each other's nearest: a common tie, and it must be one.
        gaps.append((rows - _take(unit, cosines.argmax(dim=-1))).norm(dim=-1))
    seed = torch.cat(gaps, dim=1).masked_fill(~valid, -torch.inf).argmax(dim=1, keepdim=True)
    return unit.new_full(valid.shape, FAR).scatter(1, seed, torch.inf).masked_fill(~valid, -torch.inf)


def farthest_points(unit: Tensor, gaps: Tensor, steps: int) -> Tensor:
    """Pick again and again the token that is farthest from all picks so far; ties go to the lower index.

    Only distances to the newest pick are computed, O(N d) a step, for all samples at once and without waiting for the
    device.

    Parameters
    ----------
    unit : Tensor, shape (batch, visual, width)
        Unit rows.
    gaps : Tensor, shape (batch, visual)
        Distance of every token to what is picked already; -inf for tokens that cannot be picked.
    steps : int

    Returns
    -------
    Tensor, shape (batch, steps), int64
        Arbitrary once a sample has no token left.
    """
    picks = [gaps.new_empty((len(gaps), 0), dtype=torch.int64)]
    apart = torch.empty_like(unit)  # one for all steps: making as much memory anew takes longer than filling it
    for _ in range(steps):
        pick = gaps.argmax(dim=1, keepdim=True)
        picks.append(pick)
        distances = torch.sub(unit, _take(unit, pick), out=apart).norm(dim=-1)
        gaps = torch.minimum(gaps, distances).scatter(1, pick, -torch.inf)
    return torch.cat(picks, dim=1)


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (batch, n, width) at the places ``index`` (batch, m)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
