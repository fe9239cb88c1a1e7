"""ToMe: merge the most similar tokens by bipartite soft matching (Bolya et al., ICLR 2023, arXiv 2210.09461)."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vispco.cost import Cut
from vispco.selectors.base import Choice, Merger, Need, SelectorInputs
from vispco.selectors.merging import merge_groups, share_out
from vispco.selectors.ranking import check_finite, places_of
from vispco.selectors.window_fastv import rank_in_groups

TINY = 1e-100
"""Shorter than any float32 vector but zero."""


class ToMe(Merger):
    """Rounds of merging neighbours in direction, until K tokens are left.

    In a round, the tokens of every image that are there go alternately, in their order, to A (the first, third, ...)
    and to B. With hidden states x and n_j the original tokens that token j stands for::

        b(a) = argmax_(b in B of the same image) cos(x_a, x_b)            for every a in A
        r    = min(tokens there - K, |A|)
        x_b <- (n_b x_b + sum_a n_a x_a) / (n_b + sum_a n_a)              a with b(a) = b, among the r best edges
        n_b <- n_b + sum_a n_a

    The edges of all images of a sample compete; ties go to the lower index, of a and of b. Tokens of B stay, with their
    places and positions. A lone token of an image has no partner and stays, so every image keeps a token. If K is below
    the number of images, the first K images keep one token each, and the others are dropped.

    Published settings: inside a vision transformer, in every block between attention and MLP, a fixed r such as 8, 13
    or 16 that is at most half of the tokens, compared by the attention's keys, mean over heads, with the class token
    left out and log n added to attention logits. Here all rounds are at the cut, and tokens are compared by the hidden
    states that enter the decoder layer, so that it works at every layer of every family. As a baseline for language
    models ToMe is known to be used like this, towards K tokens, but without published details. Logits are left alone,
    as attention kernels that never form the matrix take no bias. Tokens stay in their order.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"hidden"})
    paper: ClassVar[str] = "arXiv 2210.09461, ICLR 2023"
    complexity: ClassVar[str] = "O(N^2 d)"

    def own_flops(self, cut: Cut) -> float:
        """Cosines of A with B in every round, as of a single image, where they are most."""
        flops, left = 0.0, cut.visual if cut.kept else 0.0
        while left > cut.kept:
            flops += 2.0 * ((left + 1) // 2) * (left // 2) * cut.shape.hidden
            left -= (left + 1) // 2
        return flops

    def merge(self, inputs: SelectorInputs, counts: Tensor) -> Choice:
        """Rounds of all samples at once; one that has its count merges no more."""
        assert inputs.hidden is not None
        assert inputs.images is not None
        assert inputs.sizes is not None
        check_finite(inputs.hidden - inputs.hidden, inputs.valid)  # NaN for infinities too, which have no direction
        counts, images = counts.to(inputs.valid.device), inputs.images
        left = inputs.valid & (share_out(counts, images, inputs.valid) > 0).gather(1, images)
        sizes = torch.where(left, inputs.sizes, 0.0)
        place = torch.arange(left.shape[1], device=left.device).expand_as(left)
        target = place
        # A mean and a sum have one direction. In float64 the order of a sum is lost in the rounding of cosines, and
        # equal tokens tie wherever they stand.
        sums = inputs.hidden.double().masked_fill(~left[..., None], 0.0) * sizes.double()[..., None]
        for sources, partners in plan_rounds(left, images, counts):
            rank, company = rank_in_groups(place, images, left)
            even = rank % 2 == 0
            a = _first(left & even & (company > 1), sources)
            b = _first(left & ~even, partners)
            edge, into = _best_edges(sums, images, *a, *b)
            number = (left.sum(dim=1) - counts)[:, None]
            merged = a[1] & (places_of(edge.argsort(dim=1, descending=True, stable=True)) < number)
            moved = place.scatter(1, a[0], torch.where(merged, into, a[0]))
            sums = sums.scatter_add(1, _wide(into, sums), _take(sums, a[0]) * merged[..., None])
            target, left = moved.gather(1, target), left & (moved == place)
        whole = torch.zeros_like(sizes).scatter_add(1, target, sizes).gather(1, target)
        return merge_groups(left, target, torch.where(sizes > 0, sizes / whole, 0.0))


def plan_rounds(left: Tensor, images: Tensor, counts: Tensor) -> list[tuple[int, int]]:
    """The most tokens in A and in B of a sample, round by round.

    All but a sample's last round merge the whole of A, so that how many tokens there will be is known beforehand, and
    no round waits for the device.

    Parameters
    ----------
    left : Tensor, shape (batch, visual), bool
    images : Tensor, shape (batch, visual), int64
    counts : Tensor, shape (batch,), int64
        At least the number of images that have a token.

    Returns
    -------
    list of tuple of int
    """
    number = int(images.max()) + 1 if images.numel() else 1
    tokens = left.new_zeros(len(left), number, dtype=torch.int64).scatter_add(1, images, left.long()).cpu()
    counts, rounds = counts.cpu(), list[tuple[int, int]]()
    while True:
        unfinished = tokens.sum(dim=1) > counts
        if not unfinished.any():
            return rounds
        tokens, counts = tokens[unfinished], counts[unfinished]
        partners = tokens // 2
        sources = (tokens - partners) * (partners > 0)
        rounds.append((int(sources.sum(dim=1).max()), int(partners.sum(dim=1).max())))
        tokens = tokens - sources


def _best_edges(
    sums: Tensor, images: Tensor, a: Tensor, a_there: Tensor, b: Tensor, b_there: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosine with the best token of b in the same image, -inf if there is none, and that token; for every one of a."""
    unit = normalize(sums, dim=-1, eps=TINY)
    cosines = (_take(unit, a) @ _take(unit, b).mT).float()
    pairs = a_there[:, :, None] & b_there[:, None] & (images.gather(1, a)[:, :, None] == images.gather(1, b)[:, None])
    edge, best = cosines.masked_fill(~pairs, -torch.inf).max(dim=2)
    return edge, b.gather(1, best)


def _first(chosen: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The first ``most`` chosen tokens, in order, and which of them are chosen."""
    index = chosen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return index, chosen.gather(1, index)


def _wide(index: Tensor, rows: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, rows.shape[-1])


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (batch, n, width) at the places ``index`` (batch, m)."""
    return rows.gather(1, _wide(index, rows))
