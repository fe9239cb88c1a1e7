"""The estimators that are compared, as gradients of the mean KL in every layer's ratio."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.gradients.directions import Problem
from vispco.engine import attention, observed_attention, replay
from vispco.engine.gathering import gather_slots
from vispco.engine.relaxed import RelaxedPrefill, keep_counts_of
from vispco.selectors import SelectorInputs

SCORE_TEMPERATURE = 0.1
"""Of VisPCO's mask over scores (its T)."""


@dataclass(frozen=True)
class Estimator:
    """A way to get a gradient.

    Attributes
    ----------
    form : {"soft rank", "gaussian"}
        Soft rank with a temperature as a fraction of the tokens, or VisPCO's threshold with a sigma in tokens.
    width : float
        Temperature or sigma.
    hard : bool
        0/1 weights in the forward pass.
    left : bool
        Weights' derivatives in attention are those of leaving a token in or out.
    """

    form: str
    width: float
    hard: bool = False
    left: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        unit = "temperature" if self.form == "soft rank" else "sigma"
        way = "leave one in or out" if self.left else "hard forward" if self.hard else "soft forward"
        return f"{self.form}, {way}, {unit} {self.width:g}"

    def gradient(self, problem: Problem, keep: NDArray[np.float64]) -> NDArray[np.float64]:
        """Derivative of the mean KL in every ratio, shape (layers,)."""
        ratios = torch.tensor(keep[None], dtype=torch.float32, requires_grad=True)
        with observed_attention(problem.replay.family), self._installed():
            logits = problem.replay.relaxed(
                problem.captured, ratios, problem.rows, temperature=self.width, hard=self.hard
            )[0]
            (gradient,) = torch.autograd.grad(problem.loss(logits).mean(), ratios)
        return np.asarray(gradient[0].double().numpy())

    @contextmanager
    def _installed(self) -> Iterator[None]:
        prefill = GaussianThreshold if self.form == "gaussian" else RelaxedPrefill
        weighting = leave_one_attention if self.left else attention.policy_attention
        with (
            patch.object(replay, "WHOLE", 0.0),  # the ratio of every layer has a derivative
            patch.object(replay, "RelaxedPrefill", prefill),
            patch.object(attention, "policy_attention", weighting),
        ):
            yield


TEMPERATURES = (0.3, 0.1, 0.03, 0.01)
ESTIMATORS = (
    *(Estimator("soft rank", width) for width in TEMPERATURES),
    *(Estimator("soft rank", width, hard=True) for width in (0.1, 0.01)),
    *(Estimator("soft rank", width, hard=True, left=True) for width in (0.1, 0.01)),
    *(Estimator("gaussian", width, hard=True) for width in (1.58, 10.0)),
    Estimator("gaussian", 10.0),
)


class GaussianThreshold(RelaxedPrefill):
    """VisPCO's mask (arXiv 2604.15188, equations 9 to 12) for scores between 0 and 1.

    The threshold is a mean of sorted scores around place c = r N with Gaussian weights, and the mask
    ``sigmoid((s - threshold) / 0.1)``, multiplied from layer to layer. ``temperature`` is sigma, in tokens.
    """

    def ranks(self, inputs: SelectorInputs) -> Tensor:
        """Those of the selector, whose scores are kept."""
        scores = self._spread(self.selector.score(inputs).float().nan_to_num(), 0)  # type: ignore[attr-defined]
        low = scores.masked_fill(~self.alive, torch.inf).amin(dim=1, keepdim=True)
        high = scores.masked_fill(~self.alive, -torch.inf).amax(dim=1, keepdim=True)
        self._scores = ((scores - low) / (high - low).clamp(min=1e-9)).masked_fill(~self.alive, 0.0)
        return super().ranks(inputs)

    def _apply(self, ratio: Tensor, hidden: Tensor, ranks: Tensor, slope: Tensor | float) -> Tensor:
        ordered = self._scores.sort(dim=1, descending=True).values
        places = torch.arange(ordered.shape[1])
        near = -((places - (ratio * self.totals)[:, None]) ** 2) / (2 * self.temperature**2)
        near = near.masked_fill(places >= self.totals[:, None], -torch.inf).softmax(dim=1)
        threshold = (near * ordered).sum(dim=1, keepdim=True)
        weight = self.weight * torch.sigmoid((self._scores - threshold) / SCORE_TEMPERATURE)
        if self.hard:
            kept = (ranks < keep_counts_of(ratio, self.totals, self.floor)[:, None]) & self.alive
            weight = kept.to(weight.dtype) + weight - weight.detach()
            self.alive = kept
        self.weight = weight * self._original
        ones = torch.ones_like(self.visual, dtype=weight.dtype)
        policy = ones.scatter(1, self.visual_slots, torch.where(self._original, self.weight, 1.0))
        self.policy = policy if self.slots is None else gather_slots(policy, self.slots)
        return hidden


def leave_one_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, policy: Tensor, scaling: float
) -> Tensor:
    """Attention with 0/1 weights whose derivative in a weight is what the token's presence changes, all else fixed.

    With E the exponentials, M the mass of kept keys and p = E / M: a token left out has p / (1 + p) (v - out), one that
    is in has p / (1 - p) (v - out). Both are bounded by the distance of v, where the smooth derivative is p (v - out).
    """
    logits = query @ key.transpose(2, 3) * scaling
    if mask is None:
        rows, columns = logits.shape[-2:]
        mask = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(logits.dtype).min / 2
    kept = (policy.detach()[:, None, None] > 0.5) & visible
    lowest = torch.finfo(logits.dtype).min
    shares = logits.masked_fill(~kept, lowest).softmax(dim=-1) * kept
    out = shares @ value
    with torch.no_grad():
        mass = logits.masked_fill(~kept, lowest).logsumexp(dim=-1, keepdim=True)
        odds = (logits - mass).clamp(max=30.0).exp() * visible
        # A token that has all the mass leaves nothing behind: then removal is not defined, and is bounded here.
        effect = torch.where(kept, odds / (1 - odds).clamp(min=1e-3), odds / (1 + odds))
    change = policy[:, None, None] * effect
    moved = change @ value.detach() - change.sum(dim=-1, keepdim=True) * out.detach()
    return (out + moved - moved.detach()).transpose(1, 2)
