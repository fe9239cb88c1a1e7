"""MustDrop: what no word of the question looks at goes, but for the vision tower's key tokens (arXiv 2411.10803)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from vispco.schedule import SNAP
from vispco.selectors.base import Knob, Need, Nested, SelectorInputs
from vispco.selectors.ranking import places_of, rank_tokens


class MustDrop(Nested):
    """Order of the visual tokens at a cut after layer l: key tokens first; in both parts, falling scores.

    With ``a_tj = (1/H) sum_h A^l[h, t, j]`` of question tokens t, the method drops every token j that is not key, and::

        sum_t a_tj < g S   and   max_t a_tj < i,      S = sum_t sum_v a_tv over visual tokens v

    so that thresholds g and i decide how many stay. Here the number is given, and both thresholds are scaled alike
    until it is met::

        s_j = max( sum_t a_tj / (g S),  max_t a_tj / i )
        key = the ceil(key_share N) tokens with the largest tower_row

    For a number of at least the key tokens, the kept set is the method's own for thresholds ``c g`` and ``c i`` at some
    scale c (ties go to the lower index). For a smaller one, the key tokens of the best scores stay. As only the order
    counts, only the ratio of g to i matters. Without attention to visual tokens, as with an empty question, all scores
    are 0.

    Published settings: cuts after layers 2, 6, 10 and 14 of 32, ``key_share`` 0.08, thresholds per data set; those of
    TextVQA for 192, 128 and 64 tokens are g / i = .001/.001, .0012/.001 and .011/.01.

    N is the number of tokens before anything was dropped. It is not told at a later cut, where the last place that is
    still taken stands in for it: N is taken to be that place, counted from 1. This is exact while the last token stays,
    and never too large. As all key tokens come first, those of a later cut are a part of those of the first, without
    the lowest in tower_row, at most ``ceil(key_share (N - place))`` of them. In the method the set is made once.

    Not in it: the merging of similar tokens in windows of 3 x 3 in the vision tower (a schedule's ratios are of the
    tokens that enter the language model, and merging changes how many these are), and the cut of what earlier layers
    cached to the final set before decoding (here a layer's cache holds the tokens that entered that layer, and costs
    are counted so). The method takes N after that merging. Positions are the original ones, compact in the authors'
    code. Of several images, the key tokens are the best of all together; the method has one.

    Parameters
    ----------
    global_threshold, individual_threshold : float
        g and i, in 1e-5..1.
    key_share : float
        Share of key tokens, 0..1.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"question_rows", "tower_row"})
    knobs: ClassVar[Mapping[str, Knob]] = {
        "global_threshold": Knob(1e-5, 1),
        "individual_threshold": Knob(1e-5, 1),
        "key_share": Knob(0, 1),
    }
    paper: ClassVar[str] = "arXiv 2411.10803"
    complexity: ClassVar[str] = "O(N T H d + N log N)"

    def __init__(self, global_threshold: float = 1e-3, individual_threshold: float = 1e-3, key_share: float = 0.08):
        self.global_threshold: float = self.knobs["global_threshold"].check("global_threshold", global_threshold)
        self.individual_threshold: float = self.knobs["individual_threshold"].check(
            "individual_threshold", individual_threshold
        )
        self.key_share: float = self.knobs["key_share"].check("key_share", key_share)

    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Places in the order of key before rest, then of falling scores; ties go to the lower index."""
        by_score = rank_tokens(self.score(inputs), inputs.valid)
        # Ranks are below the number of tokens, so adding it puts all others behind, invalid ones still last.
        return places_of((by_score + by_score.shape[1] * ~self.key(inputs)).argsort(dim=1))

    def score(self, inputs: SelectorInputs) -> Tensor:
        """By how much each token passes the threshold that it passes better, shape (batch, visual), float32."""
        assert inputs.question_rows is not None
        assert inputs.question_valid is not None
        rows = inputs.question_rows.masked_fill(~inputs.question_valid[:, :, None], 0.0)
        # In float64, so that neither padding of the question nor the order of summing shows in the float32 result.
        sums = rows.double().sum(dim=1)
        total = sums.masked_fill(~inputs.valid, 0.0).sum(dim=1, keepdim=True)
        share = sums / total.clamp(min=torch.finfo(torch.float32).tiny)
        most = pad(rows, (0, 0, 0, 1)).amax(dim=1).double()
        return torch.maximum(share / self.global_threshold, most / self.individual_threshold).float()

    def key(self, inputs: SelectorInputs) -> Tensor:
        """Key tokens, shape (batch, visual), bool."""
        assert inputs.tower_row is not None
        assert inputs.places is not None
        total = (inputs.places + 1).masked_fill(~inputs.valid, 0)
        number = (self.key_share * pad(total, (0, 1)).amax(dim=1).double() - SNAP).ceil()
        return inputs.valid & (rank_tokens(inputs.tower_row, inputs.valid) < number[:, None])
