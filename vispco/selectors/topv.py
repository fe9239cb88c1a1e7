"""TopV: tokens that contribute most to an optimal transport (Yang et al., CVPR 2025, arXiv 2503.18278), rebuilt."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vispco.cost import Cut
from vispco.schedule import SNAP
from vispco.selectors.base import Knob, Need, SelectorInputs, Setter
from vispco.selectors.ranking import places_of, rank_tokens


class TopV(Setter):
    """K tokens: the most important ones, and an even choice among the others.

    A reconstruction: neither the paper's formulas nor its code were at hand, so results are not the paper's. With h the
    hidden states at the cut, n the same after the model's final norm, p the row and column of a token, o the centre of
    its image, and N tokens::

        C_ij = 1 - cos(h_i, n_j) + spatial_weight (1 - e_ij) + centre_weight |p_i - o|
        e_ij = exp(-|p_i - p_j|^2 / (2 sigma^2))  within an image, 0 between images
        P_ij = u_i exp(-C_ij / epsilon) v_j
        importance of i = sum_j P_ij

    ``u = 1`` first. ``iterations`` times, v is set so that every column of P sums to 1/N, and between two of these u so
    that every row does. Of K tokens, K_r = ``recover`` K (rounded half up) are recovered: the K - K_r most important
    stay, and of the M others, in the order of places, the p-th (from 0) where this grows from p to p + 1::

        floor((p K_r + floor(M/2)) / M)

    The last step has to be v. After u, row sums are 1/N whatever the costs; after v, they say which sources the targets
    draw on. The first step is v, too: were it u, all that a token costs towards every target alike, as the distance to
    the centre, would cancel. With more iterations P has both marginals and importance again tends to 1/N; ``iterations
    = 1`` lets every target choose among the sources freely.

    What is known from the paper's abstract and the caption of its overview: pruning as an optimisation problem; source
    tokens that enter a layer and target tokens that its last norm puts out; costs of feature similarity, relative
    spatial distance and absolute central distance; Sinkhorn's algorithm; importance from the matrix of contributions;
    pruned tokens that are recovered uniformly; one cut, with layer 2, and no attention.
    From a third party's description, whose origin is unknown: weights 1, 1 and 0.01, the Gaussian with sigma 10,
    epsilon 0.1, 3 iterations.
    Chosen here: uniform marginals; cosine distance; distances in tokens; the order of the steps and the sum over
    targets; the distance to the centre as a source's; both h and n at the cut, where the paper has a layer's input and
    output; several images. The third party recovers every fourth pruned token on top of the budget; here K is what
    stays, so that ``recover`` is a share of K, whose default is a choice too. After an earlier cut, the image is taken
    to end with the last row and column that still hold a token.

    Memory is O(N^2) per sample, in float64: 8 N^2 bytes for each of about five matrices, together 13 MB for 576 tokens
    and 330 MB for 2880.

    Parameters
    ----------
    recover : float
        Share of the kept tokens that is spread evenly, 0..1.
    spatial_weight, centre_weight : float
        Of the distances, beside 1 for features; 0..10.
    sigma : float
        Reach of the Gaussian in tokens, 1..100.
    epsilon : float
        Entropic regularisation, 0.01..10.
    iterations : int
        Updates of v, 1..50.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"hidden", "normed", "grid"})
    knobs: ClassVar[Mapping[str, Knob]] = {
        "recover": Knob(0, 1),
        "spatial_weight": Knob(0, 10),
        "centre_weight": Knob(0, 10),
        "sigma": Knob(1, 100),
        "epsilon": Knob(0.01, 10),
        "iterations": Knob(1, 50, whole=True),
    }
    paper: ClassVar[str] = "arXiv 2503.18278, CVPR 2025"
    complexity: ClassVar[str] = "O(N^2 d)"

    def __init__(
        self,
        recover: float = 0.25,
        spatial_weight: float = 1.0,
        centre_weight: float = 0.01,
        sigma: float = 10.0,
        epsilon: float = 0.1,
        iterations: int = 3,
    ):
        self.recover: float = self.knobs["recover"].check("recover", recover)
        self.spatial_weight: float = self.knobs["spatial_weight"].check("spatial_weight", spatial_weight)
        self.centre_weight: float = self.knobs["centre_weight"].check("centre_weight", centre_weight)
        self.sigma: float = self.knobs["sigma"].check("sigma", sigma)
        self.epsilon: float = self.knobs["epsilon"].check("epsilon", epsilon)
        self.iterations: int = self.knobs["iterations"].check("iterations", iterations)

    def own_flops(self, cut: Cut) -> float:
        """Cosines of all pairs."""
        return 2.0 * cut.visual**2 * cut.shape.hidden

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """The most important tokens and those recovered."""
        assert inputs.places is not None
        valid, counts = inputs.valid, counts.to(inputs.valid.device)
        recovered = (self.recover * counts.double() + 0.5 + SNAP).floor().long()
        important = valid & (rank_tokens(self.importance(inputs), valid) < (counts - recovered)[:, None])
        return important | spread(recovered, inputs.places, valid & ~important)

    def importance(self, inputs: SelectorInputs) -> Tensor:
        """N times the row sums of P, shape (batch, visual), float32; 0 for tokens that are not valid."""
        valid = inputs.valid
        kernel = self.costs(inputs).div_(-self.epsilon)
        kernel.masked_fill_(~(valid[:, :, None] & valid[:, None]), -torch.inf)
        # Logarithms of u and v; sums along a row or column without tokens are 0 and play no part.
        u = kernel.new_zeros(valid.shape)
        v = -_sums(kernel, u[:, :, None], 1, valid)
        for _ in range(self.iterations - 1):
            u = -_sums(kernel, v[:, None], 2, valid)
            v = -_sums(kernel, u[:, :, None], 1, valid)
        return (u + _sums(kernel, v[:, None], 2, valid)).exp().masked_fill(~valid, 0.0).float()

    def costs(self, inputs: SelectorInputs) -> Tensor:
        """C of shape (batch, source, target), float64: rounding is not to choose among tokens alike.

        Arbitrary, maybe NaN, where either token is not valid.
        """
        hidden, normed, grid, images, valid = inputs.hidden, inputs.normed, inputs.grid, inputs.images, inputs.valid
        assert hidden is not None
        assert normed is not None
        assert grid is not None
        assert images is not None
        source, target = normalize(hidden.double(), dim=-1), normalize(normed.double(), dim=-1)
        row, column = grid.double().unbind(dim=-1)
        far = (row[:, :, None] - row[:, None]).square_() + (column[:, :, None] - column[:, None]).square_()
        near = far.div_(-2 * self.sigma**2).exp_().masked_fill_(images[:, :, None] != images[:, None], 0.0)
        away = (grid - _ends(grid, images, valid) / 2).square().sum(dim=-1).sqrt()
        spatial = near.neg_().add_(1).mul_(self.spatial_weight)
        return spatial.sub_(source @ target.mT).add_(1 + self.centre_weight * away[:, :, None])


def spread(number: Tensor, places: Tensor, free: Tensor) -> Tensor:
    """An even choice.

    Parameters
    ----------
    number : Tensor, shape (batch,), int64
        How many, at most the free ones.
    places : Tensor, shape (batch, visual), int64
        The order of the tokens.
    free : Tensor, shape (batch, visual), bool
        Those to choose from.

    Returns
    -------
    Tensor, shape (batch, visual), bool
        Tokens among the free ones at equal steps, half a step from the ends.
    """
    turn = places_of(places.masked_fill(~free, torch.iinfo(places.dtype).max).argsort(dim=1, stable=True))
    among, number = free.sum(dim=1, keepdim=True).clamp(min=1), number[:, None]
    reached = turn * number + among // 2
    return free & ((reached + number) // among > reached // among)


def _sums(kernel: Tensor, factor: Tensor, dim: int, valid: Tensor) -> Tensor:
    """Logarithms of sums along ``dim``, weighted by a factor's exponential; 0 for tokens that are not valid."""
    return torch.logsumexp(kernel + factor, dim=dim).masked_fill(~valid, 0.0)


def _ends(grid: Tensor, images: Tensor, valid: Tensor) -> Tensor:
    """Last row and column of every token's image that hold a valid token; shape (batch, visual, 2)."""
    number = int(images.max()) + 1 if images.numel() else 1
    last = grid.new_zeros(len(grid), number, 2)
    index = images[..., None].expand_as(grid)
    return last.scatter_reduce(1, index, grid.masked_fill(~valid[..., None], 0), "amax").gather(1, index)
