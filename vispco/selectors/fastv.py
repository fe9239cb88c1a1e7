"""FastV: keep what the last prompt token attends to (Chen et al., ECCV 2024, arXiv 2403.06764)."""

from typing import ClassVar

from torch import Tensor

from vispco.selectors.base import Need, Scorer, SelectorInputs


class FastV(Scorer):
    """Score of visual token j at a cut before layer l.

    The formula::

        s_j = (1/H) sum_h A^(l-1)[h, last, j]

    with A the post-softmax attention over all keys and ``last`` the last prompt token. Published settings: cut at
    layer 2, keep 50 % (also 25 % and 12.5 %). The authors' code takes the row from a full attention map; here only the
    row is computed, so any attention backend stays in use. Positions are the original ones, as in their code.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"last_row"})
    paper: ClassVar[str] = "arXiv 2403.06764"
    complexity: ClassVar[str] = "O(N H d)"

    def score(self, inputs: SelectorInputs) -> Tensor:
        """The attention row itself."""
        assert inputs.last_row is not None
        return inputs.last_row
