"""Density peaks: clusters around points that are dense and far from any denser one (Rodriguez and Laio, 2014)."""

import torch
from torch import Tensor

from vispco.selectors.ranking import rank_tokens


def density_peaks(points: Tensor, there: Tensor, number: Tensor, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Centres of ``number`` clusters, and the cluster of every point.

    The formulas, with ``k = number`` neighbours, a point itself one of them::

        d_ij    = |x_i - x_j| / sqrt(width)
        rho_i   = exp(-mean of d_ij^2 over the k nearest j)
        delta_i = min over j with rho_j > rho_i of d_ij, and max over all pairs of d where there is no such j
        centres = the points with the largest rho_i delta_i

    Every centre is in its own cluster, any other point in that of the nearest centre. Of points of equal density the
    first is taken for the denser one, and every other tie goes to the first as well, so that duplicates are not two
    centres while there are others. With ``k = 1`` all densities are 1, and the first point is a centre.

    Parameters
    ----------
    points : Tensor, shape (batch, points, width), float32
    there : Tensor, shape (batch, points), bool
        Points that count.
    number : Tensor, shape (batch,), int64
        Clusters; at most the points that count.
    forced : Tensor, shape (batch, points), bool, or None
        Points that are centres before all others; of more than ``number`` the first ones.

    Returns
    -------
    tuple of Tensor, shape (batch, points)
        Which points are centres, bool, and the index of each point's centre, int64; that of a point that does not
        count is arbitrary.

    Raises
    ------
    VispcoError
        If a point that counts holds NaN or an infinity.
    """
    if not there.numel():
        return there, torch.zeros_like(there, dtype=torch.int64)
    # Each distance from the difference of two points, not from a product: duplicates are at distance exactly 0.
    gaps = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[-1] ** 0.5
    pairs = there[:, :, None] & there[:, None]
    gaps = gaps.masked_fill(~pairs, torch.inf)

    near = gaps.topk(max(number.tolist()), largest=False).values.square()
    counted = torch.arange(near.shape[-1], device=near.device) < number[:, None, None]
    # Logarithms of rho and of rho * delta have the same order, and do not underflow where points are far apart.
    density = -near.where(counted, 0.0).sum(dim=-1) / number[:, None].clamp(min=1)
    turn = torch.arange(there.shape[1], device=there.device)
    denser = (density[:, None] > density[:, :, None]) | (
        (density[:, None] == density[:, :, None]) & (turn < turn[:, None])
    )
    # A distance that is not a number makes this one none, and every peak with it, which the ranking refuses.
    farthest = gaps.where(pairs, 0.0).amax(dim=(1, 2))[:, None]
    peak = density + gaps.masked_fill(~denser, torch.inf).amin(dim=-1).minimum(farthest).log()
    if forced is not None:
        peak = peak.masked_fill(forced, torch.inf)
    centres = there & (rank_tokens(peak, there) < number[:, None])
    nearest = gaps.masked_fill(~centres[:, None], torch.inf).argmin(dim=-1)
    return centres, torch.where(centres, turn, nearest)
