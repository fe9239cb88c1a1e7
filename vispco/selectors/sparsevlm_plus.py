"""SparseVLM+: heads that look at the image, without the decay of distance (release 2.0 of arXiv 2410.04417)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from vispco.selectors.base import Knob, Need, SelectorInputs
from vispco.selectors.ranking import check_finite
from vispco.selectors.sparsevlm import SparseVLM

LEAST = 0.05
"""Smallest divisor, as a share of the largest decay of the sample."""


class SparseVLMPlus(SparseVLM):
    """Score of visual token j: mean attention of the raters over the heads that look at the image most, undecayed.

    The formulas, with R the raters of :class:`~vispco.selectors.sparsevlm.SparseVLM`, A the attention of the layer
    before the cut, and D the decay, what rotary positions alone make of the product of question token i and token j::

        G[h, i, j] = A[h, i, j] / max(D[i, j], 0.05 max_(t, v) D[t, v])
        heads      = the ``heads`` query heads with the largest sum over i in R and j of G[h, i, j]
        s_j        = mean over these heads and over i in R of G[h, i, j]

    So attention is divided first, and heads are chosen by what comes out; a tie goes to the lower head. The largest
    decay is that of all question tokens and all visual tokens that are there. If it is not positive, there is nothing
    to divide by, and G is A. If there are no more than ``heads`` heads, all count. With an empty question all scores
    are zero, and the first tokens stay.

    The least divisor is not in the authors' code, which divides by whatever D is. D is a sum of cosines of the
    distance: with 128 dimensions and base 10 000 it first turns negative 1707 positions away. There the most distant
    tokens would get enormous or negative scores for no reason of their own, and one such number decides which heads
    count. A distance that far says nothing more about decay, so its divisor is held at the least one, and no attention
    counts more than 20 times as much as the nearest. Up to 700 positions away, as far as LLaVA-1.5 goes, D is above a
    tenth of what it is at distance 0, so that nothing changes there.

    Published settings: cuts after layers 2, 6 and 15, which keep 300, 200, 118 of 576 tokens; 238, 108, 60; 246, 54,
    28; or 66, 34, 20. The 14 heads are half of a model of 28, and the code takes 14 of LLaVA's 32 as well. As
    here, it chooses heads by the raters alone and after the division, merges nothing, and leaves positions as they
    were. Raters are chosen anew at each cut, see SparseVLM.

    Parameters
    ----------
    heads : int
        How many heads count, 1..128.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"question_heads", "question_decay", "embeddings"})
    knobs: ClassVar[Mapping[str, Knob]] = {"heads": Knob(1, 128, whole=True)}
    paper: ClassVar[str] = "SparseVLM+, arXiv 2410.04417"

    def __init__(self, heads: int = 14):
        self.heads: int = self.knobs["heads"].check("heads", heads)

    def score(self, inputs: SelectorInputs) -> Tensor:
        """Mean over heads and raters of attention divided by its decay."""
        valid, told, rows, decay = inputs.valid, inputs.question_valid, inputs.question_heads, inputs.question_decay
        assert told is not None
        assert rows is not None
        assert decay is not None
        raters = self.raters(inputs)
        pairs = told[:, :, None] & valid[:, None]
        decay = decay.masked_fill(~pairs, 0.0)
        check_finite(decay.transpose(1, 2), valid)
        check_finite(rows.masked_fill(~pairs[:, None], 0.0).permute(0, 3, 1, 2), valid)

        rows = rows.masked_fill(~(pairs & raters[:, :, None])[:, None], 0.0) / _divisors(decay)[:, None]
        # In float64, so that neither padding nor the order of tokens decides between heads that are alike.
        mass = rows.flatten(2).sum(dim=2, dtype=torch.float64)
        chosen = mass.argsort(dim=1, descending=True, stable=True)[:, : self.heads]
        rows = rows.gather(1, chosen[:, :, None, None].expand(-1, -1, *rows.shape[2:]))
        # Summed along the last dimension, every token is summed alike, so that equal tokens stay equal.
        total = rows.flatten(1, 2).transpose(1, 2).contiguous().sum(dim=2)
        return total / (chosen.shape[1] * raters.sum(dim=1, keepdim=True)).clamp(min=1)


def _divisors(decay: Tensor) -> Tensor:
    """Decays (batch, question, visual), 0 where a pair does not count, raised to the least divisor; 1 where none is."""
    largest = pad(decay.flatten(1), (0, 1)).amax(dim=1)[:, None, None]
    return torch.where(largest > 0, decay.maximum(LEAST * largest), 1.0)
