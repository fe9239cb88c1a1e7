"""FastV without text: keep what the last visual token attends to (arXiv 2502.11501, Findings of ACL 2025)."""

from typing import ClassVar

from torch import Tensor

from vispco.selectors.base import Need, Scorer, SelectorInputs


class VisualFastV(Scorer):
    """Score of visual token j at a cut before layer l.

    The formula::

        s_j = (1/H) sum_h A^(l-1)[h, v, j]

    with A the post-softmax attention over all keys that v sees and v the last visual token that is there. The question
    plays no part, so the difference to FastV is what the text is worth; the paper calls it FastV_VIS. Published
    settings: those of FastV, a cut at layer 2 that keeps 144 or 64 of 576 tokens. The authors published no code.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"visual_row"})
    paper: ClassVar[str] = "arXiv 2502.11501, Findings of ACL 2025"
    complexity: ClassVar[str] = "O(N H d)"

    def score(self, inputs: SelectorInputs) -> Tensor:
        """The attention row itself."""
        assert inputs.visual_row is not None
        return inputs.visual_row
