"""VisionZip: what the class token looks at, and a digest of the rest (Yang et al., CVPR 2025, arXiv 2412.04467)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vispco.cost import Cut
from vispco.errors import ConfigError
from vispco.schedule import SNAP
from vispco.selectors.base import Choice, Knob, Merger, Need, SelectorInputs
from vispco.selectors.covering import chords, unit_rows
from vispco.selectors.merging import merge_groups, share_out
from vispco.selectors.ranking import places_of, rank_tokens
from vispco.selectors.window_fastv import rank_in_groups

RULES = ("mean", "sum")


class VisionZip(Merger):
    """Dominant tokens, and contextual ones into which all others are merged.

    With a_j the vision tower's attention on token j, k_j its keys there, averaged over heads, and n_j the original
    tokens that j stands for (1 at a first cut), an image that keeps K tokens has::

        c        = round_half_up(contextual K)
        dominant = the K - c tokens of largest a_j, as they are
        targets  = of the M other tokens in order: number 0, s, 2s, ..., (c - 1) s,   s = floor(M / c)
        t(j)     = argmax over targets t of cos(k_j, k_t), for all tokens that are neither
        G_t      = t and all j with t(j) = t

        h'_t = sum_(j in G_t) n_j h_j / sum_(j in G_t) n_j                            rule "mean"
        h'_t = h_t + sum_(j in G_t - t) n_j h_j / sum_(j in G_t - t) n_j              rule "sum"

    A target to which nothing is assigned stays as it is, and ties go to the lower index. Images share a sample's count
    in proportion to their tokens; each has dominant and contextual tokens of its own, and no token goes into another
    image. With the default an image that keeps fewer than 4 tokens has no contextual one, K = 1 included: then the
    others are dropped, and nothing is merged.

    Published settings, before the first layer: 64 = 54 + 10, 128 = 108 + 20 and 192 = 162 + 30 tokens of 576, which are
    shares of 10/64. The paper describes contextual tokens as averages, taken here over the target and what is assigned
    to it alike. The authors' code, with which results were published, adds the mean of what is assigned to the target,
    so that norms about double: rule "sum".

    Other things that differ. The authors count the class token among the dominant ones and feed it to the language
    model; it is no visual token here, so K patches stay in place of K - 1 and the class token. They merge what the
    tower puts out, before the projector; here hidden states are merged at the cut, after it. Their contextual tokens
    follow the dominant ones; here each stands at the place of its target. They treat every tile of an image on its
    own; here tiles share the count of their image.

    Parameters
    ----------
    contextual : float, default 10/64
        Share of contextual tokens.
    rule : {"mean", "sum"}
        How they are merged.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"tower_row", "tower_keys"})
    knobs: ClassVar[Mapping[str, Knob]] = {"contextual": Knob(0, 1)}
    paper: ClassVar[str] = "arXiv 2412.04467, CVPR 2025"
    complexity: ClassVar[str] = "O(N log N + N K d)"

    def __init__(self, contextual: float = 10 / 64, rule: str = "mean"):
        self.contextual: float = self.knobs["contextual"].check("contextual", contextual)
        if rule not in RULES:
            raise ConfigError(f"selector parameter rule = {rule!r} is unknown; choose one of {', '.join(RULES)}")
        self.rule = rule

    def own_flops(self, cut: Cut) -> float:
        """Cosines of all tokens with the targets; the decoder's head size stands in for the tower's."""
        return 2.0 * cut.visual * self.contextual * cut.kept * cut.shape.head_dim

    def merge(self, inputs: SelectorInputs, counts: Tensor) -> Choice:
        """Dominant tokens, targets, and what goes into them."""
        valid, images, sizes = inputs.valid, inputs.images, inputs.sizes
        assert inputs.tower_row is not None
        assert inputs.tower_keys is not None
        assert images is not None
        assert sizes is not None
        quota = share_out(counts, images, valid)
        number = rounded_share(self.contextual, quota)
        by_row, _ = rank_in_groups(rank_tokens(inputs.tower_row, valid), images, valid)
        dominant = valid & (by_row < (quota - number).gather(1, images))

        rest, wanted = valid & ~dominant, number.gather(1, images)
        place, others = rank_in_groups(in_order(inputs), images, rest)
        stride = (others // wanted.clamp(min=1)).clamp(min=1)
        targets = rest & (place % stride == 0) & (place // stride < wanted)

        kept = dominant | targets
        merged = rest & ~targets & (wanted > 0)
        own = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        unit = unit_rows(inputs.tower_keys.mean(dim=2), valid)
        into = torch.where(merged, most_similar(unit, targets, images), own)

        share = kept.to(sizes.dtype)
        counted = merged if self.rule == "sum" else merged | kept
        parts = torch.where(counted, sizes, 0.0)
        # Sums of whole numbers, which are exact in any order.
        whole = torch.zeros_like(parts).scatter_add(1, into, parts).gather(1, into)
        return merge_groups(kept, into, torch.where(counted, parts / whole, share))


def most_similar(unit: Tensor, targets: Tensor, images: Tensor) -> Tensor:
    """Index of every token's nearest target in its image, shape (batch, visual); arbitrary where there is none.

    Parameters
    ----------
    unit : Tensor, shape (batch, visual, width)
        Rows of length 1, or of zeros.
    targets : Tensor, shape (batch, visual), bool
    images : Tensor, shape (batch, visual), int64
    """
    index = first_indices(targets)
    if not index.shape[1]:
        return torch.zeros_like(images)
    others = unit.gather(1, index[..., None].expand(-1, -1, unit.shape[-1]))
    fits = targets.gather(1, index)[:, None] & (images[:, :, None] == images.gather(1, index)[:, None])
    return index.gather(1, distances(unit, others).masked_fill(~fits, torch.inf).argmin(dim=2))


def distances(unit: Tensor, others: Tensor) -> Tensor:
    """Chords of shape (batch, rows, others), which fall as cosines rise; that of a row of zeros is a right angle's."""
    zeros = ~unit.any(dim=-1)[:, :, None] | ~others.any(dim=-1)[:, None]
    return chords(unit, others).masked_fill(zeros, 2**0.5)


def first_indices(chosen: Tensor) -> Tensor:
    """Indices of the chosen tokens (batch, visual), padded to the longest choice; shape (batch, most)."""
    most = int(chosen.sum(dim=1).max()) if len(chosen) else 0
    return chosen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]


def in_order(inputs: SelectorInputs) -> Tensor:
    """Ranks of the tokens by their places in the sample, a permutation of shape (batch, visual)."""
    assert inputs.places is not None
    return places_of(inputs.places.argsort(dim=1, stable=True))


def rounded_share(share: float, counts: Tensor) -> Tensor:
    """``share`` of whole numbers, rounded half up in the way of keep counts; int64."""
    return torch.floor(share * counts.double() + 0.5 + SNAP).to(torch.int64)
