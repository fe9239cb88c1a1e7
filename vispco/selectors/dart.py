"""DART: drop duplicates of a few pivots (Wen et al., EMNLP 2025, arXiv 2502.11494)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vispco.cost import Cut
from vispco.errors import ConfigError
from vispco.selectors.base import Knob, Need, SelectorInputs, Setter
from vispco.selectors.ranking import check_finite, places_of, rank_tokens


class DART(Setter):
    """The tokens that resemble the pivots least.

    The formula, for K tokens to keep::

        pivots   p_v visual tokens with the largest |k_j|_1, then p_t question tokens with the largest |k_t|_1
        S        the visual pivots; then each pivot p in turn adds to S its n_p tokens outside S of lowest cos(x_j, x_p)

    with k the keys of the layer before the cut after rotary embedding, heads side by side, and x the hidden states at
    the cut after the model's final norm. Pivots take turns by falling norm, the visual ones first. The n_p share out
    K - p_v as evenly as possible; the first pivots get one more where it does not come out even.

    Published settings: cut at layer 2, 4 + 4 pivots, 192, 128 or 64 of 576 tokens. Two things differ from the authors'
    code. Its pivots take turns in the hash order of a Python set, which has no meaning. And it gives each pivot
    ``floor(budget / 8)`` tokens besides the 4 visual pivots, so that a budget of 128 keeps 132; here K is what stays,
    and K = 132 shares out as their 128 does.

    A question shorter than ``text_pivots`` gives as many pivots as it has tokens. If K is at most ``visual_pivots``,
    the K tokens with the largest norm stay. If there would be no pivot at all (``visual_pivots=0`` and an empty
    question), one visual pivot takes part.

    Parameters
    ----------
    visual_pivots : int
        p_v, in 0..16.
    text_pivots : int
        p_t, in 0..16; not both may be 0.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"keys", "normed"})
    knobs: ClassVar[Mapping[str, Knob]] = {
        "visual_pivots": Knob(0, 16, whole=True),
        "text_pivots": Knob(0, 16, whole=True),
    }
    paper: ClassVar[str] = "arXiv 2502.11494, EMNLP 2025"
    complexity: ClassVar[str] = "O((N + T) d + P N (d + log N)) with P pivots"

    def __init__(self, visual_pivots: int = 4, text_pivots: int = 4):
        self.visual_pivots: int = self.knobs["visual_pivots"].check("visual_pivots", visual_pivots)
        self.text_pivots: int = self.knobs["text_pivots"].check("text_pivots", text_pivots)
        if not visual_pivots and not text_pivots:
            raise ConfigError(
                "selector parameters visual_pivots = 0 and text_pivots = 0 leave no pivot; raise one of them to 1..16"
            )

    def own_flops(self, cut: Cut) -> float:
        """Cosines of the pivots with all tokens."""
        pivots = min(max(self.visual_pivots, 1), cut.visual) + min(self.text_pivots, cut.question)
        return 2.0 * pivots * cut.visual * cut.shape.hidden

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """Visual pivots and what each pivot takes."""
        valid, keys, normed = inputs.valid, inputs.keys, inputs.normed
        asked, question_keys, question_normed = inputs.question_valid, inputs.question_keys, inputs.question_normed
        assert keys is not None
        assert normed is not None
        assert asked is not None
        assert question_keys is not None
        assert question_normed is not None
        counts = counts.to(valid.device)

        ranks = rank_tokens(keys.abs().sum(dim=-1), valid)
        question_ranks = rank_tokens(question_keys.abs().sum(dim=-1), asked)
        texts = asked.sum(dim=1).clamp(max=self.text_pivots)
        at_least_one = max(self.visual_pivots, 1)
        visuals = torch.where(texts > 0, self.visual_pivots, at_least_one).minimum(counts)

        unit, question_unit = _directions(normed, valid), _directions(question_normed, asked)
        pivots = torch.cat(
            [_first(unit, ranks, at_least_one), _first(question_unit, question_ranks, self.text_pivots)], dim=1
        )
        similarity = pivots @ unit.transpose(1, 2)
        check_finite(similarity.transpose(1, 2), valid)

        # Turns of the visual slots, then of the text slots; slots beyond a sample's own pivots take nothing.
        slot = torch.arange(pivots.shape[1], device=valid.device)[None]
        visual_slots = min(at_least_one, valid.shape[1])
        of_text = slot >= visual_slots
        turn = torch.where(of_text, slot - visual_slots + visuals[:, None], slot)
        taking = torch.where(of_text, turn < (visuals + texts)[:, None], slot < visuals[:, None])
        quotas = taking * even_shares(counts - visuals, visuals + texts, turn)

        chosen = valid & (ranks < visuals[:, None])
        return chosen | take_least_similar(similarity, quotas, valid & ~chosen)


def even_shares(total: Tensor, parts: Tensor, turn: Tensor) -> Tensor:
    """What turn ``turn`` (batch, slots) gets of ``total`` (batch,) in ``parts`` (batch,), the first ones one more."""
    parts = parts.clamp(min=1)
    return (total // parts)[:, None] + (turn < (total % parts)[:, None])


def take_least_similar(similarity: Tensor, quotas: Tensor, free: Tensor) -> Tensor:
    """Let pivots take, one after the other, the tokens that are left and resemble them least.

    Parameters
    ----------
    similarity : Tensor, shape (batch, pivots, visual)
    quotas : Tensor, shape (batch, pivots), int64
        How many each pivot takes; together at most the free tokens.
    free : Tensor, shape (batch, visual), bool
        Tokens that can be taken.

    Returns
    -------
    Tensor, shape (batch, visual), bool
        Taken tokens. Ties go to the lower index.
    """
    taken = torch.zeros_like(free)
    for pivot in range(similarity.shape[1]):
        order = similarity[:, pivot].masked_fill(~free, torch.inf).argsort(dim=1, stable=True)
        now = free & (places_of(order) < quotas[:, pivot, None])
        taken, free = taken | now, free & ~now
    return taken


def _directions(states: Tensor, valid: Tensor) -> Tensor:
    """Rows at length 1, and 0 where there is no token, whatever stands there."""
    return normalize(states, dim=-1).masked_fill(~valid[:, :, None], 0.0)


def _first(states: Tensor, ranks: Tensor, count: int) -> Tensor:
    """States of the tokens that rank first, shape (batch, at most count, width)."""
    index = ranks.argsort(dim=1)[:, :count]
    return states.gather(1, index[:, :, None].expand(-1, -1, states.shape[-1]))
