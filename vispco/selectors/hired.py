"""HiRED: a budget for every tile, from what the whole picture shows (Arif et al., AAAI 2025, arXiv 2408.10945)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vispco.selectors.base import Knob, Need, SelectorInputs, Setter
from vispco.selectors.merging import share_out
from vispco.selectors.quotas import apportion, fraction
from vispco.selectors.ranking import check_finite, rank_tokens
from vispco.selectors.window_fastv import rank_in_groups

NOWHERE = 2**30
"""Beyond any row or column."""


class HiRED(Setter):
    """Tokens with the largest attention in the tower's last layer, so many of every tile of an image.

    Of an image with K tokens to keep, whose whole picture (crop 0) has N_0 patches::

        K_0  = min(floor(alpha K), N_0)
        T    = the floor((1 - alpha) N_0) patches of crop 0 with the largest attention in the tower's first layer
        h_c  = how many of T have their centre in tile c's region of the picture
        K_c  = (K - K_0) h_c / sum h,  at most the tokens that tile c has
        kept = of each crop the K_c tokens with the largest attention in the layer whose output is projected

    The tiles of an image make one mosaic. Tile c's region is the box around its tokens, in the box around the mosaic;
    it is brought to the size of crop 0. Images of a sample share its budget in proportion to their tokens, at least
    one each. An image without tiles keeps its K best tokens. Published settings: before the first layer, 20 % or 10 %
    of the tokens of LLaVA-NeXT, ``alpha`` 0.5.

    Differences. The authors' code counts T in stripes of the flat list of patches, which are not the tiles' regions;
    here the regions are those of two dimensions. It cuts K_c to whole numbers, so that fewer than K tokens stay. Here
    all K do: the largest remainders get one more, what a tile has no room for goes to the others of ``h_c > 0`` by the
    same rule, after that to crop 0, and last to the remaining tiles in proportion to their room. The embeddings that
    end the rows of LLaVA-NeXT, whose attention is 0 in both layers, are no patches: they play no part in regions and
    come last in a crop; their code keeps none of them. Positions are the original ones here and counted anew there. At
    a cut where tokens are gone already, regions are the boxes around those that are left.

    Parameters
    ----------
    alpha : float
        Share of the whole picture.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"tower_row", "tower_first_row", "crops", "grid"})
    knobs: ClassVar[Mapping[str, Knob]] = {"alpha": Knob(0, 1)}
    paper: ClassVar[str] = "arXiv 2408.10945, AAAI 2025"
    complexity: ClassVar[str] = "O(N log N + N C) with C tiles"

    def __init__(self, alpha: float = 0.5):
        self.alpha: float = self.knobs["alpha"].check("alpha", alpha)

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """The best of every crop."""
        valid, row, first = inputs.valid, inputs.tower_row, inputs.tower_first_row
        assert row is not None
        assert first is not None
        assert inputs.grid is not None
        assert inputs.images is not None
        assert inputs.crops is not None
        check_finite(first, valid)
        ranks = rank_tokens(row, valid)
        images, crops = inputs.images.masked_fill(~valid, 0), inputs.crops.masked_fill(~valid, 0)
        share = share_out(counts, images, valid)
        number = int(crops.max()) + 1 if crops.numel() else 1
        groups = images * number + crops
        room = _count(valid, groups, share.shape[1] * number)

        patches = valid & ((row != 0) | (first != 0))
        whole = patches & (crops == 0)
        seen = _count(whole, images, share.shape[1])
        within, _ = rank_in_groups(rank_tokens(first, whole), images, whole)
        telling = whole & (within < fraction(seen, 1 - self.alpha).gather(1, images))
        hits = region_hits(telling, patches, images, crops, inputs.grid, (share.shape[1], number))

        quotas = self.quotas(share.flatten(), seen.flatten(), hits, room.reshape(-1, number)).reshape(room.shape)
        within, _ = rank_in_groups(ranks, groups, valid)
        return valid & (within < quotas.gather(1, groups))

    def quotas(self, counts: Tensor, seen: Tensor, hits: Tensor, room: Tensor) -> Tensor:
        """Tokens of every crop.

        Parameters
        ----------
        counts, seen : Tensor, shape (images,), int64
            K and N_0.
        hits, room : Tensor, shape (images, crops), int64
            h_c, 0 for the whole picture, and how many tokens each crop has.

        Returns
        -------
        Tensor, shape (images, crops), int64
            ``counts`` together.
        """
        picture = torch.minimum(fraction(counts, self.alpha), seen)
        tiles = apportion(counts - picture, hits, room.masked_fill(hits == 0, 0))
        picture = torch.minimum(counts - tiles.sum(dim=1), room[:, 0])
        quotas = torch.cat([picture[:, None], tiles[:, 1:]], dim=1)
        free = room - quotas
        return quotas + apportion(counts - quotas.sum(dim=1), free, free)


def region_hits(
    telling: Tensor, patches: Tensor, images: Tensor, crops: Tensor, grid: Tensor, sizes: tuple[int, int]
) -> Tensor:
    """How many patches of the whole picture are in the region of each tile.

    Parameters
    ----------
    telling : Tensor, shape (batch, visual), bool
        Patches of the whole picture to count.
    patches : Tensor, shape (batch, visual), bool
        All patches.
    images, crops : Tensor, shape (batch, visual), int64
    grid : Tensor, shape (batch, visual, 2), int64
    sizes : tuple of int
        How many images and crops there are.

    Returns
    -------
    Tensor, shape (batch * images, crops), int64
        0 for crop 0.
    """
    batch, (number, most) = len(images), sizes
    groups = (images * most + crops)[..., None].expand(-1, -1, 2)
    low = grid.new_full((batch, number * most, 2), NOWHERE)
    low = low.scatter_reduce(1, groups, torch.where(patches[..., None], grid, NOWHERE), "amin")
    high = low.new_full(low.shape, -1).scatter_reduce(1, groups, torch.where(patches[..., None], grid, -1), "amax")
    # One past the last row and column; all by image, crop and axis.
    low, high = low.unflatten(1, sizes), high.unflatten(1, sizes) + 1
    hits = torch.zeros(batch, number, most, dtype=torch.int64, device=images.device)
    if most == 1:
        return hits.flatten(0, 1)
    top, bottom = low[:, :, 1:].amin(dim=2), high[:, :, 1:].amax(dim=2)

    def of_token(boxes: Tensor) -> Tensor:
        """Values (batch, images, 2) of every token's image."""
        return boxes.gather(1, images[..., None].expand(-1, -1, 2))

    # Centre (j + 1/2) / s of s rows against row t of the mosaic's S: (2 j + 1) S against 2 s t, all whole numbers.
    side = of_token(high[:, :, 0] - low[:, :, 0])
    centre = (2 * (grid - of_token(low[:, :, 0])) + 1) * of_token(bottom - top)
    for crop in range(1, most):
        begin, end = of_token(low[:, :, crop] - top), of_token(high[:, :, crop] - top)
        inside = (2 * side * begin <= centre) & (centre < 2 * side * end)
        hits[:, :, crop] = _count(telling & inside.all(dim=2), images, number)
    return hits.flatten(0, 1)


def _count(there: Tensor, groups: Tensor, number: int) -> Tensor:
    """How many tokens of each group are there, shape (batch, number)."""
    return torch.zeros(len(groups), number, dtype=torch.int64, device=groups.device).scatter_add(
        1, groups, there.long()
    )
