"""Window FastV: FastV's score, the same number from every window (arXiv 2502.11501, Findings of ACL 2025)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vispco.selectors.base import Knob, Need, Nested, SelectorInputs
from vispco.selectors.ranking import places_of, rank_tokens


class WindowFastV(Nested):
    """Order of the visual tokens at a cut before layer l.

    Each image's grid is tiled, from its top left, by windows of ``window`` x ``window`` tokens; those at the right and
    bottom border may be smaller. With s_j FastV's score and w(j) the window of token j, the formula is::

        s_j = (1/H) sum_h A^(l-1)[h, last, j]
        q_j = |{i valid : w(i) = w(j) and s_i > s_j}|
        tokens stay in the order of rising q_j, and of falling s_j among equal q_j

    (ties in s go to the lower index). Every window so keeps as many tokens as any other, or one less, or all that it
    has; windows whose next token scores better get the extra ones.

    The paper keeps a fixed number of the best tokens of every window, which this is whenever the count is a multiple of
    the number of windows; for other counts it says nothing, and the order above makes the kept sets nested. Published
    settings: a cut at layer 2 that keeps 144 or 64 of 576 tokens. The paper's window size could not be found: the
    default is our choice, of which 144 of 24 x 24 are 4 tokens per window. The authors published no code.

    Parameters
    ----------
    window : int
        Side of a window in tokens.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"last_row", "grid"})
    paper: ClassVar[str] = "arXiv 2502.11501, Findings of ACL 2025"
    complexity: ClassVar[str] = "O(N H d + N log N)"

    knobs: ClassVar[Mapping[str, Knob]] = {"window": Knob(1, 32, whole=True)}

    def __init__(self, window: int = 4):
        self.window: int = self.knobs["window"].check("window", window)

    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Rank inside the window first, then the score."""
        assert inputs.last_row is not None
        assert inputs.images is not None
        assert inputs.grid is not None
        by_score = rank_tokens(inputs.last_row, inputs.valid)
        row, column = (inputs.grid // self.window).unbind(dim=-1)
        windows = (inputs.images << 40) + (row << 20) + column
        within, _ = rank_in_groups(by_score, windows, inputs.valid)
        # Both keys are below the number of tokens, so together they are one key without ties.
        tokens = inputs.valid.shape[1]
        return places_of((within.masked_fill(~inputs.valid, tokens) * tokens + by_score).argsort(dim=1))


def rank_in_groups(ranks: Tensor, groups: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of every token among the valid ones of its group, and how many those are.

    Parameters
    ----------
    ranks : Tensor, shape (batch, visual), int64
        A permutation, 0 the best.
    groups : Tensor, shape (batch, visual), int64
        Group of every token, at least 0 for valid ones.
    valid : Tensor, shape (batch, visual), bool

    Returns
    -------
    tuple of two Tensor, shape (batch, visual), int64
        Ranks and sizes; those of invalid tokens play no part.
    """
    groups = groups.masked_fill(~valid, -1)
    by_rank = ranks.argsort(dim=1)
    order = by_rank.gather(1, groups.gather(1, by_rank).argsort(dim=1, stable=True))
    ordered = groups.gather(1, order)
    first = torch.searchsorted(ordered, groups)
    return places_of(order) - first, torch.searchsorted(ordered, groups, right=True) - first
