"""CDPruner: conditional diversity by a determinantal point process (Zhang et al., NeurIPS 2025, arXiv 2506.10967)."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vispco.cost import Cut
from vispco.errors import ConfigError
from vispco.selectors.base import Need, Orderer, SelectorInputs
from vispco.selectors.ranking import rank_tokens

EPSILON = 1e-6
"""Added to a relevance before the division by its range, as published; a range that is no larger counts as none."""

EXHAUSTED = 1e-5
"""Part of a token's squared length outside the span of the picks that float32 cannot tell from nothing."""

ROUNDING = 1e-6
"""Part of a token's squared length by which two computations of what is outside the span differ in float32."""


class CDPruner(Orderer):
    """Greedy maximum of the determinant of a kernel that is large for relevant tokens that differ from one another.

    The formula::

        L_ij = q_i cos(x_i, x_j) q_j        next pick: argmax_j det L[S + j] / det L[S]
        q_j  = (r_j - min r + 1e-6) / (max r - min r)
        r_j  = cos(x_j, mean_t y_t)         or its negative, with ``negated``

    with x the visual and y the question's inputs of the first layer, min and max over the sample's tokens. Once the
    picks span what is left and all gains are 0, the most relevant tokens follow. A constant r, and with it an empty
    question, counts as q = 1: diversity alone.

    Published settings: before the first layer, 128, 64 or 32 of 576 tokens. The paper's r is the negated cosine of
    CLIP's image and text embeddings, negated because CLIP's are known to be inverted for patches. Checkpoints carry no
    text tower of CLIP, so r is taken from the language model's own embeddings, for which no inversion is known: hence
    ``negated`` is off. The authors' code picks in arbitrary order or by NaN once all gains are 0, and divides by zero
    for a constant r.

    Parameters
    ----------
    negated : bool
        Whether tokens unlike the question are the relevant ones.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings"})
    paper: ClassVar[str] = "arXiv 2506.10967, NeurIPS 2025"
    complexity: ClassVar[str] = "O(N K d)"

    def __init__(self, negated: bool = False):
        if not isinstance(negated, bool):
            raise ConfigError(f"selector parameter negated = {negated!r} is not true or false; choose one")
        self.negated = negated

    def own_flops(self, cut: Cut) -> float:
        """Cosines with the question and with every vector of the basis, and each of these made orthogonal, twice."""
        products = cut.visual * (1 + cut.kept) + 2 * cut.kept * (cut.kept - 1)
        return 2.0 * products * cut.shape.hidden

    def order(self, inputs: SelectorInputs, steps: int) -> Tensor:
        """Picks of the greedy maximum."""
        embeddings, question, asked = inputs.embeddings, inputs.question_embeddings, inputs.question_valid
        assert embeddings is not None
        assert question is not None
        assert asked is not None
        if steps == 0:
            return torch.zeros(len(inputs.valid), 0, dtype=torch.int64, device=inputs.valid.device)
        # The mean's length plays no part in the cosine, so the sum serves.
        topic = normalize(question.masked_fill(~asked[:, :, None], 0.0).sum(dim=1), dim=-1)
        # A sum over each token's own row: a product of matrices rounds equal tokens (line ends of an image) apart.
        cosines = (normalize(embeddings, dim=-1) * topic[:, None]).sum(dim=-1)
        return greedy_dpp(
            embeddings, scale_relevance(-cosines if self.negated else cosines, inputs.valid), inputs.valid, steps
        )


def scale_relevance(relevance: Tensor, valid: Tensor) -> Tensor:
    """Bring the relevance of every sample's valid tokens to 0..1, give or take epsilon; 1 if they are all alike.

    Parameters
    ----------
    relevance : Tensor, shape (batch, visual)
    valid : Tensor, shape (batch, visual), bool

    Returns
    -------
    Tensor, shape (batch, visual)
    """
    lowest = relevance.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
    extent = relevance.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True) - lowest
    scaled = (relevance - lowest + EPSILON) / extent.clamp(min=EPSILON)
    return scaled.masked_fill(extent <= EPSILON, 1.0)


def greedy_dpp(features: Tensor, relevance: Tensor, valid: Tensor, steps: int) -> Tensor:
    """Greedy maximum a posteriori picks of a determinantal point process.

    The gain of token j is q_j^2 times the squared length of its unit vector outside the span of the picks, which falls
    with every pick. Instead of a Cholesky factor of the kernel (Chen et al., NeurIPS 2018) an orthonormal basis of the
    span grows by one vector per pick: the gains are the same, without the kernel, and rounding does not add up in them.

    Parameters
    ----------
    features : Tensor, shape (batch, visual, width), float32
    relevance : Tensor, shape (batch, visual), float32
        q, not negative.
    valid : Tensor, shape (batch, visual), bool
    steps : int

    Returns
    -------
    Tensor, shape (batch, steps), int64
        Tokens in the order of their picks, arbitrary once all valid ones are picked. Ties, which are gains that float32
        cannot tell apart, go to the lower index, and tokens without gain follow by falling relevance.

    Raises
    ------
    VispcoError
        If a valid token's relevance is not a number.
    """
    unit, weight = normalize(features, dim=-1), relevance.square()
    without_gain = -1.0 - rank_tokens(relevance, valid)
    # Exactly 1; 0 for zero vectors.
    outside = (unit.norm(dim=-1) > 0.5).float()
    sample = torch.arange(len(valid), device=valid.device)
    basis = unit.new_zeros(len(valid), steps, unit.shape[-1])
    picks = torch.empty(len(valid), steps, dtype=torch.int64, device=valid.device)
    free = valid.clone()
    for step in range(steps):
        gain = weight * outside
        gains = free & (gain > EXHAUSTED * weight)
        value = torch.where(gains, gain, without_gain).masked_fill(~free, -torch.inf)
        best = value.amax(dim=1, keepdim=True)
        # The lowest of all that could be the best but for rounding: equal tokens do not always have equal products.
        pick = (value + torch.where(gains, ROUNDING * weight, 0.0) >= best).int().argmax(dim=1)
        fresh, known = unit[sample, pick][:, None], basis[:, :step]
        for _ in range(2):  # twice, because once leaves rounding behind, and little else of a token near the span
            fresh = fresh - (fresh @ known.transpose(1, 2)) @ known
        fresh = normalize(fresh, dim=-1)
        basis[:, step] = fresh[:, 0]
        # A row times a matrix: on a CPU, a batch of matrices times columns takes four times as long.
        outside = outside - (fresh @ unit.transpose(1, 2))[:, 0].square()
        picks[:, step] = pick
        free[sample, pick] = False
    return picks
