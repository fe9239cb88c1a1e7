"""SparseVLM with token recycling, release 1.5 (Zhang et al., ICML 2025, arXiv 2410.04417)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vispco.cost import Cut
from vispco.schedule import SNAP
from vispco.selectors.base import Choice, Knob, Merger, Need, SelectorInputs
from vispco.selectors.clustering import density_peaks
from vispco.selectors.merging import merge_groups
from vispco.selectors.ranking import check_finite, places_of
from vispco.selectors.sparsevlm import SparseVLM


class SparseVLMRecycling(Merger):
    """The k_0 best tokens by SparseVLM's score, and clusters of the next best merged into one token each.

    For K tokens of N, with the scores of :class:`~vispco.selectors.sparsevlm.SparseVLM`::

        q(p) = min(p, floor(tau p) + 1)                  of a pool of p tokens, the best ones are recycled
        c(p) = min(q(p), floor(theta q(p)) + 1)          clusters that they form
        k_0  = max {k : k + c(N - k) <= K}

    The k_0 best tokens stay. Of the N - k_0 others the q best are clustered by their hidden states, in the way of
    :func:`~vispco.selectors.clustering.density_peaks`; each cluster becomes the mean of its members and stands where
    its centre stood. The rest is dropped. As k grows by 1, c(N - k) falls by 0 or 1, so that k + c(N - k) takes every
    value from c(N) to N, and K is met exactly. Below c(N), k_0 = 0 and there are K clusters. With K = N nothing is
    merged.

    Published settings: tau = 0.3, theta = 1/10, cuts after layers 2, 6 and 15 of 32; of 576 tokens 300, 200 and 110
    stay (or 303, 110, 36; 238, 48, 26; 66, 30, 17). With the merged ones, which K counts as well, these are K = 309,
    204, 113 (312, 117, 39; 249, 55, 27; 82, 32, 18).

    As in the authors' code, and not in the paper, merged tokens are means (the paper sums) and the distance is
    Euclidean (the paper: cosine). A token that was merged before counts as often as it has parts; in the code it counts
    once. The code adds noise of up to 1e-6 to densities; here is none, and of tokens that tie the one of the better
    score goes first, then the lower index. With one cluster all densities tie, so that it stands where its best token
    stood. The code puts merged tokens behind all others, at compact positions; here they are at the centre's place,
    with its original position. Raters are chosen anew at each cut, see SparseVLM.

    Of several images, the best token of each goes before all other tokens, and, where it is still in the pool, it is a
    centre before all others. So every image has a token while K suffices. A cluster may hold tokens of several images.

    Parameters
    ----------
    tau : float
        Share of the pool that is recycled, 0..1.
    theta : float
        Clusters per recycled token, 0..1.
    """

    needs: ClassVar[frozenset[Need]] = SparseVLM.needs | {"hidden"}
    knobs: ClassVar[Mapping[str, Knob]] = {"tau": Knob(0, 1), "theta": Knob(0, 1)}
    paper: ClassVar[str] = SparseVLM.paper
    complexity: ClassVar[str] = "O(N T H d + (N - K)^2 d)"

    def __init__(self, tau: float = 0.3, theta: float = 0.1):
        self.tau: float = self.knobs["tau"].check("tau", tau)
        self.theta: float = self.knobs["theta"].check("theta", theta)

    def own_flops(self, cut: Cut) -> float:
        """Products of the scores, and distances between recycled tokens."""
        _, recycled = self.split(torch.tensor([int(cut.kept)]), torch.tensor([int(cut.visual)]))
        return SparseVLM().own_flops(cut) + 2.0 * int(recycled) ** 2 * cut.shape.hidden

    def split(self, counts: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
        """How many tokens stay as they are, k_0, and how many are recycled, q; the clusters are ``counts - k_0``.

        Parameters
        ----------
        counts, totals : Tensor, shape (batch,), int64
            K and N.
        """
        stay = torch.arange(max([0, *totals.tolist()]) + 1, device=totals.device)
        pool = totals[:, None] - stay
        recycled = torch.minimum(pool, _floor(self.tau, pool) + 1)
        clusters = torch.minimum(recycled, _floor(self.theta, recycled) + 1)
        # The sum never falls, so how many values of k fit says which is the largest.
        fit = (pool >= 0) & (stay + clusters <= counts[:, None])
        kept = (fit.sum(dim=1) - 1).clamp(min=0)
        return kept, recycled.gather(1, kept[:, None])[:, 0]

    def merge(self, inputs: SelectorInputs, counts: Tensor) -> Choice:
        """The best as they are, and means of clusters of the next best."""
        valid, hidden, sizes = inputs.valid, inputs.hidden, inputs.sizes
        assert hidden is not None
        assert sizes is not None
        check_finite(hidden, valid)
        counts = counts.to(valid.device)
        stay, recycled = self.split(counts, valid.sum(dim=1))
        ranks, leads = _images_first(inputs, SparseVLM().ranks(inputs))

        # Recycled tokens side by side, the best first, and whatever there is behind them.
        turn = (ranks - stay[:, None]) % valid.shape[1]
        index = turn.argsort(dim=1)[:, : max([0, *recycled.tolist()])]
        there = torch.arange(index.shape[1], device=index.device) < recycled[:, None]
        points = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))
        centres, nearest = density_peaks(points, there, counts - stay, leads.gather(1, index))

        # Numbers of parts are whole, so their sums are exact in any order.
        parts = sizes.gather(1, index).masked_fill(~there, 0.0)
        share = parts / torch.zeros_like(parts).scatter_add(1, nearest, parts).gather(1, nearest)
        # Where no cluster is asked for there is no centre, and without recycled tokens the share is 0/0.
        share = share.where(centres.gather(1, nearest), 0.0)
        best = valid & (ranks < stay[:, None])
        itself = torch.arange(valid.shape[1], device=valid.device).expand_as(ranks)
        return merge_groups(
            best | torch.zeros_like(valid).scatter(1, index, centres),
            itself.scatter(1, index, index.gather(1, nearest).where(there, index)),
            best + torch.zeros_like(sizes).scatter(1, index, share),
        )


def _floor(share: float, number: Tensor) -> Tensor:
    """Whole part of a product whose factor comes from decimal text."""
    return torch.floor(share * number.double() + SNAP).to(torch.int64)


def _images_first(inputs: SelectorInputs, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks with the best token of each of several images before all others, and which tokens these are."""
    valid, images = inputs.valid, inputs.images
    assert images is not None
    last, number = ranks.shape[1], int(images.max()) + 1 if images.numel() else 1
    best = ranks.new_full((len(ranks), number), last)
    best = best.scatter_reduce(1, images, ranks.where(valid, last), "amin")
    leads = valid & (best.gather(1, images) == ranks)
    leads &= leads.sum(dim=1, keepdim=True) > 1
    return places_of(torch.where(leads, ranks - last, ranks).argsort(dim=1)), leads
