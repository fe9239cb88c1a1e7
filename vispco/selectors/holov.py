"""HoloV: a budget for every crop of the image (Zou et al., NeurIPS 2025, arXiv 2510.02912)."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vispco.cost import Cut
from vispco.selectors.base import Knob, Need, SelectorInputs, Setter
from vispco.selectors.covering import unit_rows
from vispco.selectors.quotas import apportion
from vispco.selectors.ranking import rank_tokens
from vispco.selectors.window_fastv import rank_in_groups


class HoloV(Setter):
    """Tokens with the largest attention in the vision tower, so many of every crop as its score is worth.

    The sample's tokens are cut into P runs of equal length, the first ones one longer where it does not come out even.
    With a the tower's attention row and e the inputs of the first layer, in crop p::

        v_j = variance over i != j of crop p of cos(e_i, e_j)
        f_p = mean_j ( a_j + alpha v_j mean(a) / mean(v) )
        K_p = K f_p / sum f,  kept are the K_p tokens of the largest a

    K_p is cut to a whole number; what is left over goes one by one to the crops of the largest f. What a crop has no
    tokens for is shared out by the same rule among the others.

    ``alpha`` has no effect: the mean of the second part is ``alpha mean(a)``, so that every f_p is (1 + alpha) times
    the crop's mean attention, and the factor drops out of K_p. It is kept as published, and so are the cosines. What
    crops do is to hold every part of the image to its share of the attention.

    Published settings: before the first layer, 16 crops, ``alpha`` 0.09; for Qwen2.5-VL ``max(1, int(1.78 N / K))``
    crops. Crops are runs of the flat list as in the authors' code, so bands of rows and not windows.

    Differences. The authors' code fills up with zero vectors where a crop has too few tokens; it adds 1e-6 to mean(v)
    and counts the cosine of a token with itself as 0, both without effect but for the size of the first; it scores a
    crop of one token a thousandth of what the others' scale is. A crop of v = 0, one or two tokens or duplicates,
    counts here as one of any constant v. The kept tokens stay in their order and at their positions; in their code a
    crop's tokens come by attention. It drops the embeddings that end the rows of LLaVA-NeXT; here they are tokens
    without attention.

    Parameters
    ----------
    crops : int
        P.
    alpha : float
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"tower_row", "embeddings"})
    knobs: ClassVar[Mapping[str, Knob]] = {"crops": Knob(1, 64, whole=True), "alpha": Knob(0, 1)}
    paper: ClassVar[str] = "arXiv 2510.02912, NeurIPS 2025"
    complexity: ClassVar[str] = "O(N^2 d / P + N log N) with P crops"

    def __init__(self, crops: int = 16, alpha: float = 0.09):
        self.crops: int = self.knobs["crops"].check("crops", crops)
        self.alpha: float = self.knobs["alpha"].check("alpha", alpha)

    def own_flops(self, cut: Cut) -> float:
        """Cosines of all pairs of every crop, as many as the longest one has."""
        return 2.0 * self.crops * math.ceil(cut.visual / self.crops) ** 2 * cut.shape.hidden

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """The best of every crop."""
        valid = inputs.valid
        assert inputs.tower_row is not None
        ranks = rank_tokens(inputs.tower_row, valid)
        _, ends = runs(valid, self.crops)
        crop = torch.searchsorted(ends, valid.long().cumsum(dim=1) - 1, right=True).clamp(max=self.crops - 1)
        within, _ = rank_in_groups(ranks, crop, valid)
        return valid & (within < self.quotas(inputs, counts).gather(1, crop))

    def quotas(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """Tokens of every crop, shape (batch, crops), int64; ``counts`` together.

        Raises
        ------
        VispcoError
            If an embedding holds NaN or an infinity.
        """
        valid, row = inputs.valid, inputs.tower_row
        assert row is not None
        assert inputs.embeddings is not None
        begins, ends = runs(valid, self.crops)
        longest = -(-valid.shape[1] // self.crops)
        slots = begins[..., None] + torch.arange(longest, device=valid.device)
        there = slots < ends[..., None]
        # Valid tokens in their order; slots beyond a run hold any token.
        order = (~valid).to(torch.int8).argsort(dim=1, stable=True)
        tokens = order.gather(1, slots.flatten(1).clamp(max=max(valid.shape[1] - 1, 0)))
        unit = unit_rows(inputs.embeddings, valid)
        spread = variances(
            unit.gather(1, tokens[..., None].expand(-1, -1, unit.shape[-1])).unflatten(1, slots.shape[1:]), there
        )

        size = there.sum(dim=2).clamp(min=1)
        attention = row.double().gather(1, tokens).unflatten(1, slots.shape[1:]).masked_fill(~there, 0.0)
        mean, typical = attention.sum(dim=2) / size, spread.sum(dim=2) / size
        scale = mean / torch.where(typical > 0, typical, 1.0)
        diversity = torch.where((typical > 0)[..., None], spread * scale[..., None], mean[..., None])
        scores = (attention + self.alpha * diversity).masked_fill(~there, 0.0).sum(dim=2) / size
        return apportion(counts.to(valid.device), scores, ends - begins, heaviest=True)


def runs(valid: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Where each of ``number`` runs begins and ends among a sample's valid tokens.

    Returns
    -------
    tuple of two Tensor, shape (batch, number), int64
        First place, and one past the last.
    """
    totals = valid.sum(dim=1, keepdim=True)
    before = torch.arange(number + 1, device=valid.device)
    bounds = before * (totals // number) + torch.minimum(before, totals % number)
    return bounds[:, :-1].contiguous(), bounds[:, 1:].contiguous()


def variances(unit: Tensor, there: Tensor) -> Tensor:
    """Variance of every token's cosines with the others of its crop.

    Parameters
    ----------
    unit : Tensor, shape (batch, crops, tokens, width), float32
    there : Tensor, shape (batch, crops, tokens), bool

    Returns
    -------
    Tensor, shape (batch, crops, tokens), float64
        0 for tokens that are not there.
    """
    others = there[..., None, :] & there[..., None] & ~torch.eye(there.shape[2], dtype=torch.bool, device=there.device)
    number = others.sum(dim=3).clamp(min=1)
    cosines = (unit @ unit.mT).double().masked_fill(~others, 0.0)
    mean = cosines.sum(dim=3) / number
    return (cosines - mean[..., None]).square().masked_fill(~others, 0.0).sum(dim=3) / number
