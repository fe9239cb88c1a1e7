"""PruMerge: what the class token looks at takes in its neighbours (Shang et al., ICCV 2025, arXiv 2403.15388)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from vispco.cost import Cut
from vispco.errors import ConfigError
from vispco.selectors.base import Choice, Knob, Merger, Need, SelectorInputs
from vispco.selectors.covering import CHUNK, unit_rows
from vispco.selectors.merging import share_out
from vispco.selectors.ranking import check_finite, rank_tokens
from vispco.selectors.visionzip import distances, first_indices, in_order, rounded_share
from vispco.selectors.window_fastv import rank_in_groups


class PruMerge(Merger):
    """Centres that take in the tokens of similar keys, and one token for what is no centre.

    With a_j the vision tower's attention on token j and k_j its keys there, all heads side by side, an image with N
    tokens that keeps K of them has::

        m        = K - 1 centres beside the extra token; K without it (``extra=False``, or K = 1)
        u        = round_half_up(spatial m)
        centres  = the m - u tokens of largest a_j, and u of the M others in order: floor((2 i + 1) M / (2 u)) for i < u
        near(p)  = the ``neighbours`` tokens j != p of largest cos(k_p, k_j)
        h'_p     = h_p + sum_(j in near(p)) a_j h_j
        h'_extra = sum_(j no centre) a_j h_j

    Neighbours may be centres themselves, as in the authors' code; ties go to the lower index. If K = N, tokens stay as
    they are. Weights are attention and not normalised, as in the code, so a centre's weight on itself is 1 and the sum
    of its row above 1. Images share a sample's count in proportion to their tokens, and neither centres nor neighbours
    cross from one image to another.

    The extra token is one of the K here, and comes after them in the code. It stands at the place of the token of
    largest a_j that is no centre. If no such token has any attention, the token there stays as it is.

    ``spatial = 0`` is PruMerge; PruMerge+ adds tokens that are spatially uniform. Its authors add them by a stride in
    the flat order of tokens, counted from the share of outliers and for 576 tokens alone; here the stride follows from
    the count. In the paper the number of tokens depends on the image, 5.5 % of 576 on average, which a given count does
    not; :func:`adaptive_count` gives that number, to make a schedule of. Published settings: before the first layer, 32
    neighbours.

    Other things that differ. The authors compute attention without splitting heads, in the tower's last layer; here
    a_j is the mean over heads in the layer whose output is projected, and keys are those of that layer. They merge
    before the projector; here hidden states are merged at the cut, after it. Their tokens come in falling order of
    attention, here in the original one.

    Parameters
    ----------
    neighbours : int
        Tokens that a centre takes in.
    spatial : float
        Share of centres that are spatially uniform.
    extra : bool
        Whether one token holds what is no centre.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"tower_row", "tower_keys"})
    knobs: ClassVar[Mapping[str, Knob]] = {"neighbours": Knob(0, 256, whole=True), "spatial": Knob(0, 1)}
    paper: ClassVar[str] = "arXiv 2403.15388, ICCV 2025"
    complexity: ClassVar[str] = "O(N K (d + log N))"

    def __init__(self, neighbours: int = 32, spatial: float = 0.0, extra: bool = True):
        self.neighbours: int = self.knobs["neighbours"].check("neighbours", neighbours)
        self.spatial: float = self.knobs["spatial"].check("spatial", spatial)
        if not isinstance(extra, bool):
            raise ConfigError(f"selector parameter extra = {extra!r} is unknown; choose true or false")
        self.extra = extra

    def own_flops(self, cut: Cut) -> float:
        """Cosines of all tokens with those that stay; the decoder's width stands in for the tower's."""
        return 2.0 * cut.visual * cut.kept * cut.shape.hidden

    def merge(self, inputs: SelectorInputs, counts: Tensor) -> Choice:
        """Centres and the extra token, and their weights."""
        valid, images, row = inputs.valid, inputs.images, inputs.tower_row
        assert row is not None
        assert inputs.tower_keys is not None
        assert images is not None
        quota = share_out(counts, images, valid).gather(1, images)
        by_row = rank_tokens(row, valid)
        place, total = rank_in_groups(by_row, images, valid)
        some_go = quota < total
        with_extra = some_go & (quota > 1) & self.extra

        number = quota - with_extra.long()
        uniform = rounded_share(self.spatial, number)
        top = valid & (place < number - uniform)
        number_in_order, others = rank_in_groups(in_order(inputs), images, valid & ~top)
        centres = top | (valid & ~top & spread(number_in_order, uniform, others))

        rest = valid & ~centres
        best, _ = rank_in_groups(by_row, images, rest)
        kept = centres | (rest & with_extra & (best == 0))

        unit = unit_rows(inputs.tower_keys.flatten(2), valid)
        attention = torch.where(valid, row, 0.0)
        index, rows = first_indices(kept), []
        for part in index.split(CHUNK, dim=1):
            mine = (images[:, None] == images.gather(1, part)[..., None]) & valid[:, None] & some_go[:, None]
            itself = torch.zeros_like(mine).scatter(2, part[..., None], True)
            near = nearest(unit, part, mine & ~itself, self.neighbours)
            of_extra = ~centres.gather(1, part)[..., None]
            lonely = of_extra & (attention.gather(1, part)[..., None] <= 0)
            taken = torch.where(of_extra, mine & rest[:, None], near)
            weights = taken * attention[:, None] + (itself & (~of_extra | lonely))
            rows.append(weights * kept.gather(1, part)[..., None])
        return Choice(kept, torch.cat(rows, dim=1) if rows else attention[:, None, :][:, :0])


def spread(number: Tensor, wanted: Tensor, total: Tensor) -> Tensor:
    """Whether a token is the middle of one of ``wanted`` equal runs of ``total`` tokens.

    All of shape (batch, visual), int64; ``number`` is the token's, from 0. Middles are ``floor((2 i + 1) total /
    (2 wanted))``.
    """
    ahead, here = ((2 * wanted * count + total - 1) // (2 * total).clamp(min=1) for count in (number, number + 1))
    return here > ahead


def nearest(unit: Tensor, index: Tensor, allowed: Tensor, number: int) -> Tensor:
    """The allowed tokens that are most similar to those at ``index``; ties go to the lower index.

    Parameters
    ----------
    unit : Tensor, shape (batch, visual, width)
        Rows of length 1, or of zeros.
    index : Tensor, shape (batch, rows), int64
    allowed : Tensor, shape (batch, rows, visual), bool
    number : int

    Returns
    -------
    Tensor, shape (batch, rows, visual), bool
        At most ``number`` in a row.
    """
    centres = unit.gather(1, index[..., None].expand(-1, -1, unit.shape[-1]))
    order = distances(centres, unit).masked_fill(~allowed, torch.inf).argsort(dim=2, stable=True)
    return allowed & torch.zeros_like(allowed).scatter(2, order[..., :number], True)


def adaptive_count(tower_row: Tensor, valid: Tensor) -> Tensor:
    """How many tokens stand out by attention, by which the paper chooses how many to keep.

    Those above ``Q3 + 1.5 (Q3 - Q1)``, with quartiles of each sample's tokens by linear interpolation. The authors'
    code takes quartiles over the whole batch, and adds the extra token to this number.

    Parameters
    ----------
    tower_row : Tensor, shape (batch, visual), float32
    valid : Tensor, shape (batch, visual), bool

    Returns
    -------
    Tensor, shape (batch,), int64
    """
    check_finite(tower_row, valid)
    there = pad(tower_row.masked_fill(~valid, torch.nan), (0, 1), value=torch.nan)
    low, high = there.nanquantile(torch.tensor([0.25, 0.75], dtype=there.dtype, device=there.device), dim=1)
    outliers: Tensor = valid & (tower_row > (high + 1.5 * (high - low))[:, None])
    return outliers.sum(dim=1)
