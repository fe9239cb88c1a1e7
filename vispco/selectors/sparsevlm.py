"""SparseVLM: what the telling words of the question attend to (Zhang et al., ICML 2025, arXiv 2410.04417)."""

from typing import ClassVar

import torch
from torch import Tensor

from vispco.cost import Cut
from vispco.schedule import SNAP
from vispco.selectors.base import Knob, Need, Scorer, SelectorInputs
from vispco.selectors.ranking import check_finite

ROUNDING = 1e-5
"""By how much, relative to its limit, a rater has to be above it: rounding is not to choose among words alike."""


class SparseVLM(Scorer):
    """Score of visual token j at a cut after layer l: the mean attention of the question's raters.

    The formulas, with ``R`` the raters, ``e`` the inputs of the first layer and T question tokens::

        s_j = (1/|R|) sum_{i in R} (1/H) sum_h A^l[h, i, j]
        R = {i : r_i > 1/T}
        r_i = mean over visual tokens v of softmax_i(e_v . e_i)

    The mean of ``r_i`` is 1/T, so raters are the question tokens above the mean. If there is none, since all are alike,
    all rate. With an empty question all scores are zero, and the first tokens stay.

    Published settings: cuts after layers 2, 6 and 15 of 32. Of 576 tokens the authors' release 1.5, which adds merged
    ones, keeps 300, 200, 110; 303, 110, 36; 238, 48, 26; or 66, 30, 17. Release 2.0, without merging, keeps 300, 200,
    118; 238, 108, 60; 246, 54, 28; or 66, 34, 20.

    This is the kept part of the method. Merged tokens are in ``sparsevlm_recycling``; release 2.0's choice of heads and
    its division by a kernel of positions are in ``sparsevlm_plus``. A schedule says how many stay; the paper's own
    counts are :func:`rank_counts`. Positions are the original ones, compact ones in the authors' code up to 1.5. The
    paper chooses raters once, by all visual tokens; a later cut here chooses them by those that are still there, which
    are all that it sees. The paper writes ``r_i >= 1/T``, the code ``>``; they differ where all are alike, and there
    the result here is the paper's.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"question_rows", "embeddings"})
    paper: ClassVar[str] = "arXiv 2410.04417, ICML 2025"
    complexity: ClassVar[str] = "O(N T H d)"

    def own_flops(self, cut: Cut) -> float:
        """Products of visual and question embeddings."""
        return 2.0 * cut.visual * cut.question * cut.shape.hidden

    def score(self, inputs: SelectorInputs) -> Tensor:
        """Mean of the raters' rows."""
        assert inputs.question_rows is not None
        assert inputs.question_valid is not None
        raters = self.raters(inputs)
        rows = inputs.question_rows.masked_fill(~inputs.question_valid[:, :, None], 0.0) * raters[:, :, None]
        # Summed along the last dimension, every token is summed alike; along another one, equal tokens may come apart.
        total = rows.transpose(1, 2).contiguous().sum(dim=2)
        return total / raters.sum(dim=1, keepdim=True).clamp(min=1)

    def raters(self, inputs: SelectorInputs) -> Tensor:
        """Question tokens that rate, of shape (batch, question), bool.

        Raises
        ------
        VispcoError
            If an embedding is not a number.
        """
        visual, question, told = inputs.embeddings, inputs.question_embeddings, inputs.question_valid
        assert visual is not None
        assert question is not None
        assert told is not None
        check_finite(visual, inputs.valid)
        check_finite(question, told)
        shares = (visual @ question.transpose(1, 2)).masked_fill(~told[:, None], -float("inf")).softmax(dim=2)
        tokens = inputs.valid.sum(dim=1, keepdim=True).clamp(min=1)
        relevance = shares.masked_fill(~inputs.valid[:, :, None], 0.0).sum(dim=1) / tokens
        above = told & (relevance * told.sum(dim=1, keepdim=True) > 1 + ROUNDING)
        return above | (told & ~above.any(dim=1, keepdim=True))


def rank_counts(inputs: SelectorInputs, share: float) -> Tensor:
    """How many tokens the paper keeps, by the rank of what the raters attend to; to make schedules from samples.

    The formula, with P the raters' rows over the N visual tokens that are there::

        K = N - floor(share (N - rank P))

    The rank is at most the number of raters. The authors' first release keeps ``floor(scale rank + bias)`` and at most
    N - 1 instead, with (scale, bias) tuned per benchmark: (13.5, 0), (9, 6) and (0.8, 0) for 192, 128 and 64 tokens.

    Parameters
    ----------
    inputs : SelectorInputs
    share : float
        The paper's lambda, in 0..1: of the tokens that the rank says are too many, the part that goes.

    Returns
    -------
    Tensor, shape (batch,), int64

    Raises
    ------
    ConfigError
        If ``share`` is out of range.
    """
    Knob(0, 1).check("share", share)
    assert inputs.question_rows is not None
    raters = SparseVLM().raters(inputs)
    rows = inputs.question_rows.masked_fill(~(raters[:, :, None] & inputs.valid[:, None]), 0.0)
    total = inputs.valid.sum(dim=1)
    rank = torch.linalg.matrix_rank(rows.double()) if rows.numel() else torch.zeros_like(total)
    return total - torch.floor(share * (total - rank).double() + SNAP).long()
