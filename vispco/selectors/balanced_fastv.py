"""Importance and redundancy in one score (arXiv 2502.11501, Findings of ACL 2025)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from vispco.cost import Cut
from vispco.selectors.base import Knob, Need, Scorer, SelectorInputs


class BalancedFastV(Scorer):
    """Score of visual token j at a cut before layer l.

    The formula::

        I_j = minmax( (1/H) sum_h A^(l-1)[h, last, j] )
        C_j = minmax( cos(x_j, x_last) )
        s_j = alpha I_j + (1 - alpha) (1 - C_j)

    with A the post-softmax attention over all keys, x the hidden states at the cut, ``last`` the last question token,
    and min-max over the sample's visual tokens that are there. I is FastV's importance; 1 - C stands for how little
    the last token already knows of token j. The score is linear in ``alpha``. Where all values are equal their min-max
    is 0, the cosine with a zero vector is 0, and so is x_last where there is no question.

    Published settings: a cut at layer 2 that keeps 144 of 576 tokens; of alpha = 0, 0.1, ... 1 the best were 0 to 0.1
    for perception (MME, POPE) and 0.8 to 0.9 for knowledge and text (ScienceQA, TextVQA). The paper does not say which
    layer's hidden states the cosine is of; here they are those that enter layer l. The authors published no code.

    Parameters
    ----------
    alpha : float
        Share of the importance: 1 is FastV, 0 leaves the attention out.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"last_row", "hidden"})
    paper: ClassVar[str] = "arXiv 2502.11501, Findings of ACL 2025"
    complexity: ClassVar[str] = "O(N H d)"

    knobs: ClassVar[Mapping[str, Knob]] = {"alpha": Knob(0, 1)}
    smooth_knobs: ClassVar[frozenset[str]] = frozenset({"alpha"})

    def __init__(self, alpha: float = 0.5):
        self.alpha: float = self.knobs["alpha"].check("alpha", alpha)

    def own_flops(self, cut: Cut) -> float:
        """Cosines with the last question token."""
        return 2.0 * cut.visual * cut.shape.hidden

    def score(self, inputs: SelectorInputs) -> Tensor:
        """Weighted mean of importance and what is not redundant."""
        assert inputs.last_row is not None
        assert inputs.hidden is not None
        assert inputs.question_hidden is not None
        assert inputs.question_valid is not None
        importance = min_max(inputs.last_row, inputs.valid)
        last = last_of(inputs.question_hidden, inputs.question_valid)
        redundancy = min_max(cosine_with(inputs.hidden, last), inputs.valid)
        return self.alpha * importance + (1 - self.alpha) * (1 - redundancy)


def min_max(values: Tensor, valid: Tensor) -> Tensor:
    """Values moved and scaled to 0..1 over the valid tokens, or 0 where these are all equal; shape (batch, visual)."""
    if values.shape[1] == 0:
        return values
    low = values.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
    # Infinity minus infinity would be NaN, and so would be the gradient in what the result is multiplied by.
    low = low.masked_fill(~valid.any(dim=1, keepdim=True), 0.0)
    span = values.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True) - low
    # Not `where(span > 0, ..., 0)`, which would turn NaN into a harmless 0.
    return (values - low) / span.masked_fill(span == 0, 1.0)


def last_of(states: Tensor, valid: Tensor) -> Tensor:
    """State of the last valid token, or 0 where there is none; (batch, tokens, width) to (batch, width)."""
    is_last = valid & (valid.flip(1).cumsum(dim=1).flip(1) == 1)
    return states.masked_fill(~is_last[..., None], 0.0).sum(dim=1)


def cosine_with(states: Tensor, direction: Tensor) -> Tensor:
    """Cosine of every token's state (batch, visual, width) with its sample's direction (batch, width)."""
    # A product and a sum, no matrix product: equal rows get equal cosines, so that ties stay ties.
    along = (states * functional.normalize(direction, dim=1)[:, None]).sum(dim=-1)
    length: Tensor = torch.linalg.vector_norm(states, dim=-1)
    return along / length.clamp(min=1e-12)
