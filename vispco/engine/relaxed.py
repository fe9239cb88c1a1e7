"""The differentiable twin of a prefill: all tokens run, each counts with a weight between dropped and kept.

A token of rank k (0 the best) has at a cut to c = r N tokens the weight of the soft rank::

    m = sigmoid((c - k - 1/2) / (temperature N))

so that ``sum m`` is close to c and the gradient in r does not depend on how scores are distributed. Weights never
grow with depth, and a layer at which the soft count does not fall by a token does not re-rank anything in full: a cut
that would not happen must not act. With ``hard=True`` the forward pass uses the 0/1 weights of the integer counts (it
then equals physical dropping) and the backward pass the soft ones (straight-through).

A knob of the selector in which scores s are differentiable moves weights through the rank: its gradient is that of the
soft rank of a token among all others, while the forward pass keeps the rank itself::

    k_i ~ sum_j m_j sigmoid((s_j - s_i) / (temperature (max s - min s)))
"""

from typing import Any, Self

import torch
from torch import Tensor

from vispco.engine.gathering import gather_slots
from vispco.engine.prefill import Prefill
from vispco.schedule import keep_counts
from vispco.selectors import Choice, Scorer, SelectorInputs

NEGLIGIBLE = 0.02
"""Weight below which a token is dropped physically: it would cost as much as any other."""


class RelaxedPrefill(Prefill):
    """A prefill whose tokens are weighted by ``policy`` instead of dropped.

    Parameters
    ----------
    start : Prefill
        Where it takes over; nothing dropped yet.
    temperature : float
        Width of the soft rank as a fraction of the visual tokens.
    hard : bool
        0/1 weights in the forward pass.
    """

    def __init__(self, start: Prefill, *, temperature: float, hard: bool = False):
        assert start.slots is None
        vars(self).update(vars(start.fork()))
        self.temperature, self.hard = temperature, hard
        self.totals = self.alive.sum(dim=1).float()
        self._original = self.alive
        self.weight = self.alive.float()
        """Weight of every visual token, shape (batch, visual)."""
        self.soft_count = self.totals.clone()
        self.learns_knobs = False
        """Whether the selector's knobs take a gradient."""

    def weigh(self, layer: int, ratio: Tensor, hidden: Tensor, arguments: dict[str, Any]) -> tuple[Self, Tensor]:
        """Go from the layer before to ``layer`` and apply its keep ratio.

        Parameters
        ----------
        layer : int
        ratio : Tensor, shape (batch,)
        hidden : Tensor, shape (batch, tokens, width)
            Output of the layer before.
        arguments : dict
            Arguments of ``layer`` for the whole sequence.

        Returns
        -------
        RelaxedPrefill
            The state of ``layer``.
        Tensor, shape (batch, tokens left, width)
            Its input, without the tokens whose weight is negligible for good; all of them with hard weights, because
            the straight-through gradient needs dropped tokens to run along.
        """
        hidden = self.complete(layer - 1, hidden)
        state = self.fork()
        inputs = state.inputs(layer, hidden, arguments)
        return state, state._apply(ratio, hidden, state.ranks(inputs), state._knob_slope(inputs))

    def _knob_slope(self, inputs: SelectorInputs) -> Tensor | float:
        """Zeros with the gradient of soft ranks in the selector's knobs, shape (batch, visual), if any are learned."""
        if not self.learns_knobs:
            return 0.0
        assert isinstance(self.selector, Scorer)
        scores = self.selector.score(inputs)
        known = scores.detach().masked_fill(~inputs.valid, torch.nan)
        span = known.nan_to_num(-torch.inf).amax(dim=1) - known.nan_to_num(torch.inf).amin(dim=1)
        width = self.temperature * span.clamp(min=1e-6)[:, None, None]
        better = torch.sigmoid((scores[:, None] - scores[:, :, None]) / width)
        soft = (better * self._shown(self.weight).detach()[:, None]).sum(dim=2)
        return self._spread(soft - soft.detach(), 0)

    def _apply(self, ratio: Tensor, hidden: Tensor, ranks: Tensor, slope: Tensor | float) -> Tensor:
        ratio = ratio.to(self.totals.device)
        count = ratio * self.totals
        # A token's rank is the weight of all better ones: the plain rank where weights are 0 and 1.
        order = ranks.argsort(dim=1)
        mass = self.weight.gather(1, order)
        rank = torch.zeros_like(mass).scatter(1, order, mass.cumsum(dim=1) - mass) + slope
        # A sample without visual tokens has nothing to weigh, but its gradient has to be finite too.
        width = self.temperature * self.totals.clamp(min=1.0)[:, None]
        soft = torch.sigmoid((count[:, None] - rank - 0.5) / width)
        share = (self.soft_count - count).clamp(0.0, 1.0)[:, None]
        weight = torch.minimum(self.weight, share * soft + (1 - share) * self.weight)
        if self.hard:
            whole = keep_counts_of(ratio, self.totals, self.floor).to(weight.device)
            kept = (ranks < whole[:, None]) & self.alive
            weight = kept.to(weight.dtype) + weight - weight.detach()
            self.alive = kept
        elif bool((weight < NEGLIGIBLE).logical_and(self.alive).any()):
            kept = self.alive & (weight.detach() >= NEGLIGIBLE)
            hidden = self.drop(Choice(kept), kept.sum(dim=1).cpu(), hidden)
        self.weight, self.soft_count = weight * self._original, count
        sequence = torch.ones_like(self.visual, dtype=weight.dtype)
        policy = sequence.scatter(1, self.visual_slots, torch.where(self._original, weight, 1.0))
        self.policy = policy if self.slots is None else gather_slots(policy, self.slots)
        return hidden

    def _reweigh(self, heads: Tensor) -> Tensor:
        if self.policy is None:
            return heads
        weighted = heads * self.policy.detach().to(heads.device)[:, None, None, None]
        # A row may see keys of weight 0 alone: then it has no attention to give.
        return weighted / weighted.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weighted.dtype).tiny)


def keep_counts_of(ratio: Tensor, totals: Tensor, floor: Tensor) -> Tensor:
    """Integer counts of one ratio per sample; shape (batch,)."""
    return keep_counts(ratio.detach().cpu(), totals.cpu().to(torch.int64), floor).diagonal()
