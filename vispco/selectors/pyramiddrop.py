"""PyramidDrop: what the last prompt token attends to in the next layer (Xing et al., CVPR 2025, arXiv 2410.17247)."""

from typing import ClassVar

from torch import Tensor

from vispco.selectors.base import Need, Scorer, SelectorInputs


class PyramidDrop(Scorer):
    """Score of visual token j at a cut before layer l.

    The formula::

        s_j = (1/H) sum_h A^l[h, last, j]

    with A^l the attention that layer l would have on all tokens that are there. FastV takes the row of the layer that
    ran, l - 1, instead.

    Published settings: cuts before layers 8, 16 and 24 of 32 to 1/2, 1/4 and 1/8 of the original visual tokens, 288,
    144 and 72 of 576. The authors' code computes queries, keys and values of all tokens of layer l twice; one row is
    enough. It renumbers positions at every cut; here they are the original ones. In training it takes the mean of the
    tokens before each answer, which has no counterpart here.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"next_row"})
    paper: ClassVar[str] = "arXiv 2410.17247, CVPR 2025"
    complexity: ClassVar[str] = "O(N H d)"

    def score(self, inputs: SelectorInputs) -> Tensor:
        """The attention row itself."""
        assert inputs.next_row is not None
        return inputs.next_row
