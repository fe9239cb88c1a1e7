"""FitPrune: what visual tokens and the question attend to (Ye et al., AAAI 2025, arXiv 2409.10197).

Besides the selector there is what the paper fits for it: the tokens that a layer can spare at a tolerance, from which
``search=fitprune`` makes schedules, and the schedules that the authors published.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from vispco.errors import ConfigError
from vispco.selectors.base import Need, Scorer, SelectorInputs
from vispco.selectors.ranking import rank_tokens

PUBLISHED: Mapping[int, tuple[int, ...]] = {
    50: (3, 7, 49, 24, 29, 17, 59, 41, 26, 8, 10, 6, 2, 5, 7, 2, 30, 3, 13, 27, 5, 23, 2, 1, 0, 0, 1, 1, 2, 0, 0, 0),
    60: (14, 33, 89, 36, 36, 20, 55, 21, 18, 4, 7, 5, 2, 5, 7, 4, 26, 5, 11, 24, 4, 18, 2, 1, 0, 0, 1, 0, 1, 0, 0, 0),
    80: (128, 127, 118, 35, 26, 8, 13, 3, 2, 1, 0, 0, 0, 2, 1, 8, 7, 8, 5, 11, 2, 6, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0),
    90: (262, 153, 80, 19, 13, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 1, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0),
}
"""Tokens that each of LLaVA-1.5-7B's 32 layers deletes of 576, by how many percent of visual FLOPs are to be saved."""


class FitPrune(Scorer):
    """Score of visual token j at a cut after layer l: what visual tokens and the question both attend to stays.

    The formula, with ``M[q, j] = max_h A^l[h, q, j]``::

        s_j = self_j * cross_j
        self_j = mean over visual tokens q of M[q, j]
        cross_j = sum over question tokens q of M[q, j]

    Published settings: a few tokens go after every layer, by :data:`PUBLISHED`. With an empty question all scores are
    zero, and the first tokens stay.

    The authors delete inside a layer, after its attention, which spares its output projection and MLP the tokens; here
    they leave before the next layer. The same tokens go, but a schedule pays for that rest of the layer that chose: the
    one for 50 keeps 0.519 of the visual FLOPs, not 0.503.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"self_mass", "cross_mass"})
    paper: ClassVar[str] = "arXiv 2409.10197, AAAI 2025"
    complexity: ClassVar[str] = "O(N (N + T) H d)"

    def score(self, inputs: SelectorInputs) -> Tensor:
        """The product of both masses."""
        assert inputs.self_mass is not None
        assert inputs.cross_mass is not None
        return inputs.self_mass * inputs.cross_mass


def schedule(deletions: Sequence[int], tokens: int = 576) -> tuple[float, ...]:
    """Keep ratios of a table of deletions: ``c_l / tokens`` enter layer l, ``c_0 = tokens``, ``c_{l+1} = c_l - t_l``.

    As ratios they hold for any number of visual tokens. What the last layer deletes changes nothing, since no layer
    follows it.

    Parameters
    ----------
    deletions : sequence of int
        Tokens t_l that layer l deletes after its attention, as in :data:`PUBLISHED`.
    tokens : int
        Visual tokens that the table is for.

    Raises
    ------
    ConfigError
        If there are no tokens, or a layer deletes more than is left or less than none.
    """
    if tokens < 1:
        raise ConfigError(f"tokens = {tokens} is below 1; give the number of visual tokens that the table is for")
    left = [tokens]
    for layer, gone in enumerate(deletions):
        if not 0 <= gone <= left[-1]:
            raise ConfigError(f"deletions[{layer}] = {gone} is outside 0..{left[-1]}; delete no more than is left")
        left.append(left[-1] - gone)
    return tuple(count / tokens for count in left[:-1])


def fit_deletions(
    self_mass: Tensor,
    cross_mass: Tensor,
    valid: Tensor,
    tolerance: float,
    self_reference: Tensor,
    cross_reference: Tensor,
) -> Tensor:
    """Tokens that a layer can spare: the least ones of both masses.

    For each mass by itself these are the longest run of its least tokens whose removal leaves at least
    ``1 - tolerance`` of the reference; a layer deletes the tokens that are in both runs. Among equal masses the lower
    index stays. The selector's product may delete other tokens, as many: that is the paper's method.

    Parameters
    ----------
    self_mass, cross_mass : Tensor, shape (batch, visual)
        As in :class:`SelectorInputs`, of the tokens that are still there.
    valid : Tensor, shape (batch, visual), bool
        Tokens that are still there.
    tolerance : float
        Share of the attention that may go, in 0..1; at 1 a layer can spare everything.
    self_reference, cross_reference : Tensor, shape (batch,)
        Sums of the masses over all visual tokens, in the same layer of a run without pruning.

    Returns
    -------
    Tensor, shape (batch, visual), bool

    Raises
    ------
    ConfigError
        If the tolerance is out of its range.
    VispcoError
        If a mass is not a number.
    """
    if not 0.0 <= tolerance <= 1.0:
        raise ConfigError(f"tolerance = {tolerance} is outside 0..1; give the share of attention that may go")
    least = _least(self_mass, valid, (1 - tolerance) * self_reference)
    return least & _least(cross_mass, valid, (1 - tolerance) * cross_reference)


def _least(mass: Tensor, valid: Tensor, needed: Tensor) -> Tensor:
    """Tokens without which, and without all lesser ones, the mass is still what is needed."""
    ranks = rank_tokens(mass, valid)
    falling = torch.zeros_like(mass).scatter(1, ranks, mass.masked_fill(~valid, 0.0))
    before = pad(falling.cumsum(dim=1)[:, :-1], (1, 0))  # of the greater tokens, which stay: 0 for the greatest
    return valid & (before.gather(1, ranks) >= needed[:, None])
