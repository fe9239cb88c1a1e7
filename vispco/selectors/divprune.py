"""DivPrune: keep tokens that are as different as possible (Alvar et al., CVPR 2025, arXiv 2503.02175)."""

from typing import ClassVar

import torch
from torch import Tensor

from vispco.cost import Cut
from vispco.errors import ConfigError
from vispco.selectors.base import Need, Orderer, SelectorInputs
from vispco.selectors.covering import farthest_points, seed_gaps, unit_rows

SOURCES: tuple[Need, ...] = ("embeddings", "hidden")


class DivPrune(Orderer):
    """Max-min diversity, greedily.

    With visual tokens v and picks S so far, the first and every further pick are::

        s_1     = argmax_i min_(j != i)  1 - cos(v_i, v_j)
        s_(m+1) = argmax_(i not in S) min_(s in S)  1 - cos(v_i, v_s)

    Neither the question nor attention is looked at. Published settings: before the first layer, keep 9.8 % of an image
    and 10 % of a video. A deeper cut makes the order anew, among the tokens that are left.

    The authors' code computes all N x N distances in half precision and does not exclude what it has picked, so it can
    pick one of several near-identical tokens twice and keep fewer than asked for; here picks are excluded. It numbers
    the kept tokens' positions anew; here the original positions stay.

    Parameters
    ----------
    source : {"embeddings", "hidden"}
        Compare the inputs of the first layer, as published, or the hidden states at the cut.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings"})
    paper: ClassVar[str] = "arXiv 2503.02175, CVPR 2025"
    complexity: ClassVar[str] = "O(N^2 d + N K d)"

    def __init__(self, source: Need = "embeddings"):
        if source not in SOURCES:
            raise ConfigError(f"selector parameter source = {source!r} is unknown; choose one of {', '.join(SOURCES)}")
        self.needs = frozenset({source})  # type: ignore[misc]  # the only selector whose needs are its parameter

    def own_flops(self, cut: Cut) -> float:
        """Distances of all pairs for the first pick, and of all tokens to every pick."""
        return 2.0 * cut.visual * (cut.visual + cut.kept) * cut.shape.hidden

    def order(self, inputs: SelectorInputs, steps: int) -> Tensor:
        """The first picks, whose order does not depend on how many there are."""
        tokens = inputs.embeddings if "embeddings" in self.needs else inputs.hidden
        assert tokens is not None
        unit = unit_rows(tokens, inputs.valid)
        if steps == 0:
            return torch.empty((len(unit), 0), dtype=torch.int64, device=unit.device)
        return farthest_points(unit, seed_gaps(unit, inputs.valid), steps)
