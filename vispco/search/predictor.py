"""Kernel parameters as a function of the budget, and of the sample if wanted: one training for all budgets.

The amortised form of VisPCO (arXiv 2604.15188), whose network maps a budget and features of the prompt to the
parameters of a kernel. Here a small network learns what to add to known starts::

    parameters(b, x) = start of the anchor nearest to b + rates * f(u(b), x)

with u the budget scaled to -1..1 and x features of the prompt, standardised over the samples of the search, so that
their average is 0: leaving them out gives the configuration of the whole data set. The last layer of f begins at 0,
so training begins at the starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vispco.cost import Cost
from vispco.errors import ConfigError
from vispco.evaluation import TeacherBatch
from vispco.kernels import Kernel
from vispco.search.space import Schedule, fit_to_budget

WIDTH = 32
COMPONENTS = 8
"""Features of a prompt at most."""


class PromptFeatures:
    """Features of prompts: mean embeddings of text and of visual tokens, reduced to their principal components.

    Only the prompt is looked at, up to its last token: no answer, no padding. A linear map, fixed after fitting.

    Attributes
    ----------
    centre : Tensor, shape (2 * width,)
    components : Tensor, shape (2 * width, features)
        Scaled so that every feature has variance 1 over the samples that it was fitted to.
    """

    def __init__(self, centre: Tensor, components: Tensor):
        self.centre, self.components = centre, components

    @classmethod
    def fit(cls, batches: Sequence[TeacherBatch]) -> "PromptFeatures":
        """Principal components of all samples, as many as there are up to :data:`COMPONENTS`."""
        means = torch.cat([pooled_prompt(batch) for batch in batches])
        centre = means.mean(dim=0)
        _, scale, directions = torch.linalg.svd(means - centre, full_matrices=False)
        spread = scale / max(1, len(means) - 1) ** 0.5
        used = int((spread > 1e-6 * spread[:1].clamp(min=1e-12)).sum().clamp(max=COMPONENTS))
        return cls(centre, (directions[:used] / spread[:used, None]).T)

    def of(self, batch: TeacherBatch) -> Tensor:
        """Features of a batch, shape (batch, features)."""
        return (pooled_prompt(batch) - self.centre) @ self.components


def pooled_prompt(batch: TeacherBatch) -> Tensor:
    """Mean embeddings of a prompt's text tokens and of its visual tokens, shape (batch, 2 * width), float32, CPU."""
    captured, device = batch.captured, batch.captured.visual.device
    slots = torch.arange(captured.hidden.shape[1], device=device)
    asked = captured.real & (slots <= captured.query[:, None]) & ~captured.visual
    hidden = captured.hidden.to(device).float()
    kinds = [mask[..., None] * hidden for mask in (asked, captured.visual)]
    counts = [mask.sum(dim=1, keepdim=True).clamp(min=1) for mask in (asked, captured.visual)]
    return torch.cat([kind.sum(dim=1) / count for kind, count in zip(kinds, counts, strict=True)], dim=1).cpu()


class Table(nn.Module):
    """One row of parameters per start: what is learned for fixed budgets.

    Parameters
    ----------
    starts : Tensor, shape (starts, size)
    rates : Tensor, shape (size,)
        Step of the optimiser on each parameter; what is learned is counted in such steps.
    """

    def __init__(self, starts: Tensor, rates: Tensor):
        super().__init__()
        self.starts, self.rates = starts, rates
        self.steps = nn.Parameter(torch.zeros_like(starts))

    def forward(self, features: Tensor | None = None) -> Tensor:
        """Rows of all starts, shape (starts, size)."""
        return self.starts + self.rates * self.steps


class Predictor(nn.Module):
    """See the module's description.

    Parameters
    ----------
    budgets : Tensor, shape (anchors,)
    starts : Tensor, shape (anchors, size)
    rates : Tensor, shape (size,)
    features : int
        Features of a sample; 0 for a predictor that knows the budget only.
    """

    def __init__(self, budgets: Tensor, starts: Tensor, rates: Tensor, features: int = 0):
        super().__init__()
        self.budgets: Tensor
        self.starts: Tensor
        self.rates: Tensor
        for name, value in (("budgets", budgets), ("starts", starts), ("rates", rates)):
            self.register_buffer(name, value.float())
        self.features = features
        self.inner = nn.Linear(1 + features, WIDTH)
        self.outer = nn.Linear(WIDTH, starts.shape[1])
        self.forget()

    def forget(self) -> None:
        """Go back to the starts."""
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, features: Tensor | None = None) -> Tensor:
        """Rows of all anchors: shape (anchors, size), or (anchors, batch, size) with features (batch, features)."""
        return self.at(self.budgets, features)

    def at(self, budgets: Tensor, features: Tensor | None = None) -> Tensor:
        """Rows for any budgets, shape (budgets, size) or (budgets, batch, size).

        Parameters
        ----------
        budgets : Tensor, shape (budgets,)
        features : Tensor, shape (batch, features), or None
            None: those of the average sample, which are 0.
        """
        low, high = self.budgets.min(), self.budgets.max()
        scaled = 2 * (budgets.float() - low) / (high - low).clamp(min=1e-6) - 1
        nearest = (budgets.float()[:, None] - self.budgets).abs().argmin(dim=1)
        start = self.starts[nearest]
        if features is None:
            inputs = torch.cat([scaled[:, None], scaled.new_zeros(len(scaled), self.features)], dim=1)
        else:
            shape = (len(scaled), len(features))
            inputs = torch.cat([scaled[:, None, None].expand(*shape, 1), features.expand(*shape, -1)], dim=2)
            start = start[:, None]
        learned: Tensor = self.outer(torch.tanh(self.inner(inputs)))
        return start + self.rates * learned


@dataclass(frozen=True)
class Answers:
    """Schedules for any budget from a trained predictor.

    Attributes
    ----------
    predictor : Predictor
    kernel : Kernel
    cost : Cost
        Budgets are held exactly by it.
    knobs : tuple of str
        Trained knobs of the selector.
    features : PromptFeatures or None
        If the predictor looks at prompts.
    """

    predictor: Predictor
    kernel: Kernel
    cost: Cost
    knobs: tuple[str, ...] = ()
    features: PromptFeatures | None = None

    def at(self, budget: float) -> tuple[Schedule, dict[str, float]]:
        """The schedule of the whole data set within ``budget``, and the knobs that go with it.

        Raises
        ------
        ConfigError
            If the budget cannot be met.
        """
        with torch.no_grad():
            rows = self.predictor.at(torch.tensor([budget]))
        [schedule] = self._harden(rows)
        knobs = dict(zip(self.knobs, rows[0, self.kernel.size :].tolist(), strict=True))
        return self._fit(schedule, self.cost, budget), knobs

    def each(self, budget: float, batches: Sequence[TeacherBatch], cost: Cost) -> list[Schedule]:
        """A schedule for every sample, each within ``budget`` of its own unpruned prefill.

        Parameters
        ----------
        budget : float
        batches : sequence of TeacherBatch
        cost : Cost
            Of these samples.

        Raises
        ------
        ConfigError
            If the predictor does not look at prompts, or a sample cannot meet the budget.
        """
        if self.features is None:
            raise ConfigError("the predictor does not look at prompts; train one with search.per_sample=true")
        with torch.no_grad():
            rows = torch.cat([self.predictor.at(torch.tensor([budget]), self.features.of(b))[0] for b in batches])
        alone = {kind: cost.of([kind]) for kind in cost.kinds}
        return [
            self._fit(schedule, alone[kind], budget)
            for schedule, kind in zip(self._harden(rows), cost.tokens, strict=True)
        ]

    def _fit(self, schedule: Sequence[float], cost: Cost, budget: float) -> Schedule:
        """The schedule within a budget; the nearest start if training has moved its cuts too deep for that."""
        try:
            return fit_to_budget(schedule, cost, budget)
        except ConfigError:
            start = self.predictor.starts[(self.predictor.budgets - budget).abs().argmin()]
            return fit_to_budget(self._harden(start[None])[0], cost, budget)

    def _harden(self, rows: Tensor) -> list[list[float]]:
        size = self.kernel.size
        hardened: list[list[float]] = self.kernel.harden(self.kernel.project(rows[:, :size])).tolist()
        return hardened
