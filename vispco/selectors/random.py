"""Random: the control that every method has to beat (arXiv 2502.11501)."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vispco.selectors.base import Knob, Need, Scorer, SelectorInputs


class Random(Scorer):
    """One uniform permutation per sample, of which a cut keeps a prefix, so deeper cuts are nested.

    The permutation depends on ``seed`` and the sample's token ids, not on its place in a batch.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"sample_key"})
    paper: ClassVar[str] = "arXiv 2502.11501"
    complexity: ClassVar[str] = "O(N)"

    knobs: ClassVar[Mapping[str, Knob]] = {"seed": Knob(0, 2**64 - 1, whole=True)}

    def __init__(self, seed: int = 0):
        self.seed = self.knobs["seed"].check("seed", seed)

    def score(self, inputs: SelectorInputs) -> Tensor:
        """A uniform draw per token; tokens in the order of their draws are the permutation."""
        assert inputs.sample_key is not None
        own = torch.arange(inputs.valid.shape[-1])[None]
        index = (own if inputs.places is None else inputs.places).cpu().numpy().astype(np.uint64)
        key = inputs.sample_key.cpu().numpy().astype(np.uint64)[:, None]
        draws = _mix(_mix(key + np.uint64(self.seed)) + index)
        # The top 24 bits are exact in float32; a tie goes to the lower index like any other.
        return torch.from_numpy((draws >> np.uint64(40)).astype(np.float32)).to(inputs.valid.device)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood, 2014): a counter-based generator, so a token's draw needs no neighbours."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
