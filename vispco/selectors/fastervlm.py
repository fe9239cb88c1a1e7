"""FasterVLM: keep what the vision tower's class token attends to (Zhang et al., arXiv 2412.01818)."""

from typing import ClassVar

from torch import Tensor

from vispco.selectors.base import Need, Scorer, SelectorInputs


class FasterVLM(Scorer):
    """Score of visual token j, before the first layer or at any cut.

    The formula::

        s_j = (1/H) sum_h A[h, class, j]

    with A the post-softmax attention in the vision tower's layer whose output is projected (the last but one of LLaVA's
    CLIP). The question plays no part. Where the tower has no class token, ``s_j`` is the attention that j receives,
    mean over the patches of its image, and where several patches make one token, the mean over them. The authors'
    results are for towers with a class token; without one, users found the method to be worse than random choice
    (CogVLM, InternVL2), so compare it with ``random`` there.

    Published settings: before the first layer. The authors' code keeps the same number of tokens from every tile of
    LLaVA-NeXT; here all tokens of a sample compete, over tiles and images. It numbers the kept tokens' positions anew;
    here the original positions stay.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"tower_row"})
    paper: ClassVar[str] = "arXiv 2412.01818"
    complexity: ClassVar[str] = "O(N log N)"

    def score(self, inputs: SelectorInputs) -> Tensor:
        """The tower's attention row itself."""
        assert inputs.tower_row is not None
        return inputs.tower_row
