"""Uniform grid: a control that spreads tokens evenly and looks at nothing but their places."""

from typing import ClassVar

import torch
from torch import Tensor

from vispco.selectors.base import Need, Nested, SelectorInputs
from vispco.selectors.ranking import places_of
from vispco.selectors.window_fastv import rank_in_groups

BITS = 16
"""Bits of a row or column: sides of up to 65 536 tokens."""


class UniformGrid(Nested):
    """Order of the visual tokens, from their rows and columns alone.

    Inside an image tokens stay in the order of the Bayer matrix of ordered dithering, whose key for the token in row
    y and column x interleaves their bits, the lowest first::

        b_j = sum_i 4^(15-i) (2 (y_i xor x_i) + y_i),    y = sum_i 2^i y_i,  x = sum_i 2^i x_i

    Images share the tokens in proportion to how many they have: with m(j) the tokens of j's image that are there, and
    k(j) the place of j among them, tokens stay in the order of rising::

        (2 k_j + 1) / m_j

    (the method of Webster and Sainte-Laguë; ties go to the lower index). All kept sets are nested. A quarter of the
    tokens is the grid of every second row and column, a sixteenth that of every fourth; one half adds the centres
    of the cells. Grids start at the top left. In between, tokens fill the next finer grid, coarsest parts first.

    Published settings: none; it is the control for spatial uniformity that pooling is in arXiv 2502.11501, but keeps
    tokens as they are instead of averaging them.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"grid"})
    paper: ClassVar[str] = "none; control, in the order of Bayer, ICC 1973"
    complexity: ClassVar[str] = "O(N log N)"

    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Places in the order of every image, merged in proportion to the images' sizes."""
        assert inputs.images is not None
        assert inputs.grid is not None
        by_place = places_of(bayer_key(inputs.grid).argsort(dim=1, stable=True))
        within, size = rank_in_groups(by_place, inputs.images, inputs.valid)
        # Fixed point instead of a fraction: equal fractions stay equal, and different ones of sizes < 2^16 differ.
        turn = ((2 * within + 1) << 32) // size
        return places_of(turn.masked_fill(~inputs.valid, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True))


def bayer_key(grid: Tensor) -> Tensor:
    """Entry of the endless Bayer matrix: (..., row and column) to (...), int64."""
    bits = torch.arange(BITS, device=grid.device)
    row, column = ((grid[..., None] >> bits) & 1).unbind(dim=-2)
    return ((2 * (row ^ column) + row) << (2 * (BITS - 1 - bits))).sum(dim=-1)
