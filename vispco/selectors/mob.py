"""MoB: cover the prompt and the image, in balance (Li et al., NeurIPS 2025, arXiv 2505.10118)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vispco.cost import Cut
from vispco.errors import ConfigError
from vispco.schedule import SNAP
from vispco.selectors.base import Knob, Need, SelectorInputs, Setter
from vispco.selectors.covering import (
    CHUNK,
    chords,
    chosen_rows,
    covering_radius,
    farthest_points,
    nearest,
    seed_gaps,
    unit_rows,
)
from vispco.selectors.ranking import places_of, rank_tokens

PRESETS: Mapping[str, tuple[tuple[float, float, float], float]] = {
    "strong": ((3 / 8, 1 / 4, 1 / 4), 3 / 40),
    "weak": ((1 / 2, 7 / 16, 5 / 12), 1 / 8),
}
"""Shares K_p/K at K/N = 1/9, 2/9 and 3/9, and k/K_p, for strong and for weak coupling of prompt and image."""


class MoB(Setter):
    """K tokens of which ``K_p = share K`` cover the prompt and the others what is left of the image.

    With directions of the visual tokens V and of the question P, all at length 1::

        C    = union over p in P of the k most similar tokens to p
        S_p  = the K_p tokens of C with the largest max_p cos(v, p)
        S_v  = K - |S_p| times: argmax_(v not in S) min_(s in S)  1 - cos(v, s),   S = S_p and what is in S_v so far
        S    = S_p + S_v, always K tokens

    No attention is needed. If C has fewer than K_p tokens, S_v is the larger; if S_p is empty (``share`` 0, or no
    question), S_v starts with the token whose nearest other token is farthest, as in DivPrune. The question are the
    text tokens after the image; the paper does not say whether the system prompt counts as well.

    Published settings, at layer 2, for K = 64 / 128 / 192 of N = 576 tokens: K_p = 32 / 48 / 64 and k = K_p/8 without
    knowing the coupling (the paper lists these in the reverse order, with which k would not be K_p/8); with it, which
    :func:`coupling` measures, the presets::

        strong (MMBench, ScienceQA, VizWiz):      K_p = 3K/8, K/4, K/4,       k = 3 K_p/40
        weak   (GQA, MME, POPE, TextVQA, VQAv2):  K_p = K/2, 7K/16, 5K/12,    k = K_p/8

    These were used alike for 320 of 2880 tokens and for video (6.6 % of 2048: the first column), so they are taken as
    functions of K/N with N the tokens that are there at the cut: linear between 1/9, 2/9 and 3/9, and constant beyond.
    K_p and k are rounded half up, and k is at least 1.

    This is the paper's Algorithm 1. The authors' code for LLaVA looks at no more than the 8 question tokens with the
    largest keys, adds key norms to cosines, applies the model's final norm to hidden states first, and may keep more
    or fewer than K; that for Qwen2-VL is another algorithm. Neither is an option here, as no results are known to be
    theirs.

    Parameters
    ----------
    share : float, default 1/2
        K_p/K.
    k : int, default 4
        Fold of the covering: tokens per question token.
    preset : {"strong", "weak"} or None
        Take both from the table above instead.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"hidden"})
    knobs: ClassVar[Mapping[str, Knob]] = {"share": Knob(0, 1), "k": Knob(1, 64, whole=True)}
    paper: ClassVar[str] = "arXiv 2505.10118, NeurIPS 2025"
    complexity: ClassVar[str] = "O(N (T + K) d)"

    def __init__(self, share: float | None = None, k: int | None = None, preset: str | None = None):
        if preset not in (None, *PRESETS):
            raise ConfigError(f"selector parameter preset = {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
        if preset is not None and (share is not None or k is not None):
            raise ConfigError(
                f"selector parameter preset = {preset!r} sets share and k, but share = {share!r} and k = {k!r} are "
                "given too; leave out either"
            )
        self.preset = preset
        self.share: float = self.knobs["share"].check("share", 0.5 if share is None else share)
        self.k: int = self.knobs["k"].check("k", 4 if k is None else k)

    def own_flops(self, cut: Cut) -> float:
        """Distances of all tokens to the question and to every token that is kept."""
        return 2.0 * cut.visual * (cut.question + cut.kept) * cut.shape.hidden

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """Prompt centres first, then the farthest points from them."""
        valid, counts = inputs.valid, counts.to(inputs.valid.device)
        visual, question, question_valid = _directions(inputs)
        number, k = self.split(counts, valid.sum(dim=1))
        centres = _prompt_centres(visual, valid, question, question_valid, number, k)
        rest = counts - centres.sum(dim=1)
        gaps = nearest(visual, *chosen_rows(visual, centres)).masked_fill(centres | ~valid, -torch.inf)
        unseeded = (rest > 0) & ~centres.any(dim=1)
        if bool(unseeded.any()):
            gaps = torch.where(unseeded[:, None], seed_gaps(visual, valid), gaps)
        picks = farthest_points(visual, gaps, max([0, *rest.tolist()]))
        wanted = torch.arange(picks.shape[1], device=picks.device)[None] < rest[:, None]
        return centres.long().scatter_add(1, picks, wanted.long()) > 0

    def split(self, counts: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
        """K_p and k of every sample.

        Parameters
        ----------
        counts, totals : Tensor, shape (batch,), int64
            K and N.

        Returns
        -------
        tuple of Tensor, shape (batch,), int64
        """
        exact = counts.double()
        if self.preset is None:
            number = _round_half_up(exact * self.share)
            return number, torch.full_like(number, self.k)
        shares, fold = PRESETS[self.preset]
        table = torch.tensor(shares, dtype=torch.float64, device=counts.device)
        place = (9 * exact / totals.clamp(min=1) - 1).clamp(0, 2)
        left = place.long().clamp(max=1)
        number = _round_half_up(exact * torch.lerp(table[left], table[left + 1], place - left))
        return number, _round_half_up(number.double() * fold).clamp(min=1)


def coupling(inputs: SelectorInputs) -> Tensor:
    """Hausdorff distance ``eta`` of the visual tokens V and the question P, by their directions.

    The formula, with Euclidean distances between rows at length 1::

        eta = max( max_v min_p |v - p|,  max_p min_v |p - v| )

    in 0..2. A large ``eta`` is called weak coupling: few tokens matter to the question. The paper leaves the threshold
    between the presets to the user.

    Parameters
    ----------
    inputs : SelectorInputs
        With ``hidden``.

    Returns
    -------
    Tensor, shape (batch,), float32
        Infinite where either side is empty and the other is not.
    """
    visual, question, question_valid = _directions(inputs)
    return torch.maximum(
        covering_radius(visual, inputs.valid, question, question_valid),
        covering_radius(question, question_valid, visual, inputs.valid),
    )


def coverage(inputs: SelectorInputs, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How well a choice S covers the question P and the visual tokens V.

    The two terms that the paper's bound (Lemma 2) trades against each other, for the chosen set as a whole::

        e_p = max_p min_s |p - s|,    e_v = max_v min_s |v - s|

    Parameters
    ----------
    inputs : SelectorInputs
        With ``hidden``.
    chosen : Tensor, shape (batch, visual), bool

    Returns
    -------
    tuple of Tensor, shape (batch,), float32
        ``e_p`` and ``e_v``; infinite where nothing is chosen of something.
    """
    visual, question, question_valid = _directions(inputs)
    centres = chosen_rows(visual, chosen & inputs.valid)
    return (
        covering_radius(question, question_valid, *centres),
        covering_radius(visual, inputs.valid, *centres),
    )


def _directions(inputs: SelectorInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Visual tokens and the question at length 1, and which of the question count."""
    assert inputs.hidden is not None
    assert inputs.question_hidden is not None
    assert inputs.question_valid is not None
    visual = unit_rows(inputs.hidden, inputs.valid)
    return visual, unit_rows(inputs.question_hidden, inputs.question_valid), inputs.question_valid


def _prompt_centres(
    visual: Tensor, valid: Tensor, question: Tensor, question_valid: Tensor, number: Tensor, k: Tensor
) -> Tensor:
    """The set S_p, shape (batch, visual), bool; ties go to the lower index."""
    candidates, gaps = torch.zeros_like(valid), visual.new_full(valid.shape, torch.inf)
    for start in range(0, question.shape[1], CHUNK):
        pairs = question_valid[:, start : start + CHUNK, None] & valid[:, None]
        apart = chords(question[:, start : start + CHUNK], visual).masked_fill(~pairs, torch.inf)
        places = places_of(apart.argsort(dim=-1, stable=True))
        candidates |= (pairs & (places < k[:, None, None])).any(dim=1)
        gaps = torch.minimum(gaps, apart.amin(dim=1))
    return candidates & (rank_tokens(-gaps, candidates) < number[:, None])


def _round_half_up(values: Tensor) -> Tensor:
    """Whole numbers of float64 values, in the way of keep counts."""
    return torch.floor(values + 0.5 + SNAP).to(torch.int64)
