"""FEATHER: attention without rotary positions, and a uniform grid (Endo et al., ICCV 2025, arXiv 2412.13180)."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from vispco.selectors.base import Knob, Need, Nested, SelectorInputs
from vispco.selectors.ranking import places_of, rank_tokens


class Feather(Nested):
    """First the tokens of a coarse grid, then the rest; in both the higher score is the better rank.

    The formulas, with q and k before rotary embedding and v over the visual tokens that are there::

        grid = {j : row_j mod stride = 0 and column_j mod stride = 0}, rows and columns of j's image
        s_j = (1/H) sum_h softmax_v(q_last . k_v / sqrt(D))[j]

    The paper keeps the tokens of the highest scores and the grid with them. How many come together depends on their
    overlap; here the number is given. If it is the size of that union, the kept set is the union. With fewer tokens
    than the grid has, the best of the grid stay. ``stride = 1`` is the score alone, the paper's ablation without a
    grid.

    Published settings: stride 3; before layer 8 of 32 the grid and 30 % by score, before layer 16 9 % of what is left.
    That second cut is by score alone in the paper (26 of 299 tokens, where the grid had 81); here it keeps the best of
    the grid. The authors' code scores with the weights of layers 7 and 15, here it is the layer after the cut; it asks
    for a square grid, which is not needed here. Positions are the original ones in both.

    Parameters
    ----------
    stride : int
        Rows and columns from one grid token to the next, 1..8.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"unrotated_row", "grid"})
    knobs: ClassVar[Mapping[str, Knob]] = {"stride": Knob(1, 8, whole=True)}
    paper: ClassVar[str] = "arXiv 2412.13180, ICCV 2025"
    complexity: ClassVar[str] = "O(N H d)"

    def __init__(self, stride: int = 3):
        self.stride = self.knobs["stride"].check("stride", stride)

    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Places in the order of grid before rest, then of falling scores; ties go to the lower index."""
        assert inputs.unrotated_row is not None
        assert inputs.grid is not None
        by_score = rank_tokens(inputs.unrotated_row, inputs.valid)
        first = inputs.valid & (inputs.grid % self.stride == 0).all(dim=-1)
        # Ranks are below the number of tokens, so adding it puts all others behind, invalid ones still last.
        return places_of((by_score + by_score.shape[1] * ~first).argsort(dim=1))
