"""Reverse FastV: a control that keeps what FastV drops first."""

from typing import ClassVar

from torch import Tensor

from vispco.selectors.base import Need, Scorer, SelectorInputs


class ReverseFastV(Scorer):
    """Score of visual token j at a cut before layer l.

    The formula::

        s_j = -(1/H) sum_h A^(l-1)[h, last, j]

    with A and ``last`` as in :class:`~vispco.selectors.fastv.FastV`, so the least attended tokens stay. A selector that
    does not beat this one gets nothing from the attention. No paper or code that we could read defines it; there are no
    published settings.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"last_row"})
    paper: ClassVar[str] = "none; control for FastV, arXiv 2403.06764"
    complexity: ClassVar[str] = "O(N H d)"

    def score(self, inputs: SelectorInputs) -> Tensor:
        """The attention row, negated."""
        assert inputs.last_row is not None
        return -inputs.last_row
