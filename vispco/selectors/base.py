"""What a selector is and what it may see.

A selector decides *which* visual tokens stay; the engine decides how many. It is a pure function of the inputs that it
declares in ``needs``: the engine computes just those, never a full attention map.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from vispco.errors import VispcoError

Need = Literal["last_row", "sample_key"]


@dataclass(frozen=True)
class SelectorInputs:
    """Signals for one cut. ``B`` batch, ``V`` visual tokens in their original order, padded.

    Attributes
    ----------
    valid : Tensor, shape (batch, visual), bool
        Tokens that are still there.
    last_row : Tensor, shape (batch, visual), float32, or None
        Attention of the last prompt token in the layer before the cut, mean over query heads.
    sample_key : Tensor, shape (batch,), int64, or None
        A number that depends on the sample's token ids alone, for reproducible randomness.
    """

    valid: Tensor
    last_row: Tensor | None = None
    sample_key: Tensor | None = None


class Selector(Protocol):
    """A scorer: higher scores stay, so the kept sets of falling counts are nested."""

    needs: ClassVar[frozenset[Need]]

    def score(self, inputs: SelectorInputs) -> Tensor:
        """Scores of shape (batch, visual), float32."""
        ...


def rank_tokens(scores: Tensor, valid: Tensor) -> Tensor:
    """Rank of every token, 0 the best; ties go to the lower index, invalid tokens come last.

    Parameters
    ----------
    scores : Tensor, shape (batch, visual)
    valid : Tensor, shape (batch, visual), bool

    Returns
    -------
    Tensor, shape (batch, visual), int64

    Raises
    ------
    VispcoError
        If a valid token's score is not a number.
    """
    if bool((scores.isnan() & valid).any()):
        raise VispcoError("a selector returned NaN scores; the model's attention or hidden states hold NaN")
    # Finite scores may be -inf themselves, so validity is a sort key of its own: stable sort, last key first.
    by_score = scores.masked_fill(~valid, 0.0).argsort(dim=-1, descending=True, stable=True)
    by_validity = valid.gather(-1, by_score).to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    order = by_score.gather(-1, by_validity)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
