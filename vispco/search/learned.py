"""The learned search: schedules for many budgets by gradient, in one run.

1. *Start*: single cuts are probed at every layer (:class:`vispco.search.probe.Damage`), and the best predicted
   schedules within each budget, with different cut layers, become its particles: rows of kernel parameters.
2. *Train*: all particles see the same samples. The objective of a particle with budget b is, with the soft cost C and
   an augmented Lagrangian AL::

       log(KL + 0.01) + AL(C(r) - b)

   The logarithm has the same minimiser and puts all budgets on one scale. Masks soften and steps flatten at the start
   and harden towards the end (temperature, sharpness). The multiplier answers to the exact cost of integer counts.
   After part of the run the worse starts of every budget are given up.
3. *Select*: starts and survivors are hardened, brought exactly onto the nearest budgets, and measured with tokens
   physically dropped, first on a few samples, then the better ones on more; per budget the least KL wins.

Smooth knobs of the selector can be trained along: every particle has values of its own, which it starts at those of the
settings and keeps in their ranges.

Everything is charged to the ledger; a backward pass counts as much as its forward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vispco.cost import FlopCost
from vispco.engine import observed_attention
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator
from vispco.kernels import MultiStep
from vispco.search.lagrangian import AugmentedLagrangian
from vispco.search.probe import Damage, stepped_schedules
from vispco.search.sampled import check_knobs
from vispco.search.space import Schedule, fit_to_budget

Choice = tuple[Schedule, tuple[float, ...]]
"""A schedule and the values of the trained knobs."""


@dataclass(frozen=True)
class LearnedSettings:
    """Settings of the learned search.

    Attributes
    ----------
    steps, batch : int
        Gradient steps, and samples in each.
    starts : int
        Starts per budget.
    survivors : int
        Starts per budget that go on after ``trial`` of the run.
    centre_lr, lr : float
        Of Adam, on layer positions (in layers) and on logits of keep factors.
    trial : float
        Part of the run after which the worse starts are given up.
    dual_every : int
        Gradient steps between dual steps.
    temperature, sharpness : pair of float
        At the start and at the end, changing geometrically.
    straight_through : bool
        0/1 masks in the forward pass and the gradient of the soft ones, as VisPCO (arXiv 2604.15188) trains.
    probe_ratios : tuple of float
        Ratios of the probing cuts.
    start_levels : int
        Ratios between 0.9 and 0.02 that starts are predicted for.
    neighbours : int
        Budgets that every candidate is fitted to.
    finalists : int
        Candidates per budget that are measured on ``select_samples``.
    probe_samples, select_samples : int
        Samples for probing and the first measurement, and for the second.
    tune : tuple of str
        Smooth knobs of the selector to train.
    knob_lr : float
        Of Adam, on knobs, as a fraction of their range.
    """

    steps: int = 15
    batch: int = 4
    starts: int = 2
    survivors: int = 1
    centre_lr: float = 0.03
    lr: float = 0.15
    trial: float = 0.7
    dual_every: int = 3
    temperature: tuple[float, float] = (0.1, 0.01)
    sharpness: tuple[float, float] = (3.0, 10.0)
    straight_through: bool = False
    probe_ratios: tuple[float, ...] = (0.5, 0.2, 0.05)
    start_levels: int = 12
    neighbours: int = 2
    finalists: int = 2
    probe_samples: int = 100
    select_samples: int = 250
    tune: tuple[str, ...] = ()
    knob_lr: float = 0.05


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after a gradient step; means over the particles."""

    step: int
    loss: float
    violation: float
    multiplier: float


@dataclass(frozen=True)
class Learned:
    """One schedule of the result, with trained knobs, and the budget it is for."""

    budget: float
    schedule: Schedule
    kl: float
    knobs: Mapping[str, float] = field(default_factory=dict)


class LearnedSearch:
    """See the module's description.

    Parameters
    ----------
    evaluator : Evaluator
        On the samples to search with; its ledger is charged.
    cost : FlopCost
    kernel : MultiStep
    budgets : sequence of float
    settings : LearnedSettings
    seed : int
    report : callable or None
        Called with a :class:`Progress` after every step.

    Raises
    ------
    ConfigError
        If the model has too few layers for the kernel's steps, or a knob cannot be trained.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        cost: FlopCost,
        kernel: MultiStep,
        budgets: Sequence[float],
        settings: LearnedSettings,
        *,
        seed: int = 0,
        report: Callable[[Progress], None] | None = None,
    ):
        self.evaluator, self.cost, self.kernel, self.settings = evaluator, cost, kernel, settings
        self.budgets = sorted(budgets, reverse=True)
        self.layers = evaluator.replay.layers
        self.report = report
        self.random = np.random.default_rng(seed)
        if kernel.steps > self.layers - 1:
            raise ConfigError(
                f"kernel.steps = {kernel.steps} is too many for {self.layers} decoder layers; give 1..{self.layers - 1}"
            )
        self.knobs = check_knobs(evaluator.selector, settings.tune)
        rough = set(settings.tune) - evaluator.selector.smooth_knobs
        if rough:
            raise ConfigError(
                f"knob {min(rough)!r} of selector {evaluator.selector_name} has no gradient; tune it with search=tpe"
            )

    def run(self) -> list[Learned]:
        """The best schedule found for every budget, in falling order of budget."""
        starts, owner = self.choose_starts()
        return self.select(torch.cat([starts, self.train(starts, owner)]))

    # --- 1 -----------------------------------------------------------------------------------------------------------

    def choose_starts(self) -> tuple[Tensor, Tensor]:
        """Particles and the budget each belongs to; shapes (particles, 2 * steps + knobs), (particles,)."""
        settings = self.settings
        damage = Damage.probe(self.evaluator, settings.probe_ratios, settings.probe_samples)
        choices = stepped_schedules(
            self.layers, self.kernel.steps, np.geomspace(0.9, 0.02, settings.start_levels).tolist()
        )
        table = np.array([schedule for _, schedule in choices])
        predicted = damage.predict(table)
        costs = self.cost.soft(torch.from_numpy(table)).numpy()
        rows: list[Tensor] = []
        owner: list[int] = []
        for index, budget in enumerate(self.budgets):
            seen: dict[tuple[int, ...], Tensor] = {}
            # Near the cheapest cost nothing on the ladder is within the budget; fitting goes below the ladder.
            allowed = costs <= max(budget, costs.min())
            for place in np.argsort(np.where(allowed, predicted, np.inf), kind="stable")[: allowed.sum()]:
                cuts, schedule = choices[place]
                if len(seen) == settings.starts:
                    break
                if cuts not in seen:
                    seen[cuts] = self.kernel.encode(fit_to_budget(schedule, self.cost, budget), cuts)
            rows += seen.values()
            owner += [index] * len(seen)
        selector = self.evaluator.selector
        values = torch.tensor([float(getattr(selector, name)) for name in self.knobs])
        return torch.stack([torch.cat([row, values.to(row)]) for row in rows]), torch.tensor(owner)

    # --- 2 -----------------------------------------------------------------------------------------------------------

    def train(self, parameters: Tensor, owner: Tensor) -> Tensor:
        """Trained particles, shape (survivors, 2 * steps + knobs)."""
        settings, steps = self.settings, self.kernel.steps
        parts = [part.clone() for part in parameters.tensor_split([steps, 2 * steps], dim=1)]
        low, span = self._knob_range()
        parts[2] = (parts[2] - low) / span
        optimizer = _adam(parts, settings)
        lagrangian = AugmentedLagrangian(len(owner), penalty=30.0, growth=1.5, tolerance=0.9, cap=1e3, damping=0.5)
        final = torch.tensor(self.budgets, dtype=torch.float64)
        merit = torch.zeros(len(owner), dtype=torch.float64)
        with observed_attention(self.evaluator.replay.family):
            for step in range(settings.steps):
                done = step / max(1, settings.steps - 1)
                target = final[owner]
                ratios = self.kernel.ratios(
                    torch.cat(parts[:2], dim=1), self.layers, _between(settings.sharpness, done)
                )
                values = dict(zip(self.knobs, (low + span * parts[2]).unbind(dim=1), strict=True))
                divergence = self.relaxed_divergence(ratios, _between(settings.temperature, done), values)
                loss = (divergence + 0.01).log()
                objective = loss + lagrangian(self.cost.soft(ratios) - target)
                optimizer.zero_grad()
                objective.sum().backward()
                optimizer.step()
                with torch.no_grad():
                    legal = self.kernel.project(torch.cat(parts[:2], dim=1), self.layers)
                    for part, projected in zip(parts, legal.split(steps, dim=1), strict=False):
                        part.copy_(projected)
                    parts[2].clamp_(0.0, 1.0)
                    merit = 0.8 * merit + 0.2 * objective
                exact = [self.cost.exact(row) for row in self.kernel.harden(legal, self.layers).tolist()]
                violation = torch.tensor(exact, dtype=torch.float64) - target
                if step % settings.dual_every == settings.dual_every - 1:
                    lagrangian.update(violation)
                if self.report:
                    mean_loss, mean_violation = loss.detach().mean().item(), violation.clamp(min=0.0).mean().item()
                    self.report(Progress(step, mean_loss, mean_violation, lagrangian.multiplier.mean().item()))
                if step == int(settings.trial * settings.steps) and settings.survivors < settings.starts:
                    alive = _best_of_each(merit, owner, settings.survivors)
                    parts = [part.detach()[alive] for part in parts]
                    owner, merit = owner[alive], merit[alive]
                    optimizer = _adam(parts, settings, optimizer, alive)
                    lagrangian.keep(alive)
        parts[2] = low + span * parts[2]
        return torch.cat(parts, dim=1).detach()

    def _knob_range(self) -> tuple[Tensor, Tensor]:
        """Lowest value and width of every trained knob's range."""
        low, high = ([getattr(knob, end) for knob in self.knobs.values()] for end in ("low", "high"))
        return torch.tensor(low, dtype=torch.float32), torch.tensor(high) - torch.tensor(low, dtype=torch.float32)

    def relaxed_divergence(self, ratios: Tensor, temperature: float, knobs: Mapping[str, Tensor]) -> Tensor:
        """Mean KL of every schedule on a fresh draw of samples; shape (particles,), differentiable.

        Parameters
        ----------
        ratios : Tensor, shape (particles, layers)
        temperature : float
        knobs : mapping of str to Tensor, shape (particles,)
        """
        batches = self.evaluator.batches
        batch = batches[self.random.integers(len(batches))]
        size = min(self.settings.batch, len(batch.rows))
        part = batch.select(torch.from_numpy(self.random.permutation(len(batch.rows))[:size]))
        every = part.select(torch.arange(size).repeat(len(ratios)))
        self.evaluator.charge_layer(part, part.captured.visual_tokens)
        logits = self.evaluator.replay.relaxed(
            part.captured, ratios, part.rows, temperature=temperature, hard=self.settings.straight_through,
            knobs=knobs, visit=lambda kept: self.evaluator.charge_layer(every, kept, passes=2),
        )  # fmt: skip
        return every.divergence(logits.flatten(0, 1)).view(-1, size).mean(dim=1)

    # --- 3 -----------------------------------------------------------------------------------------------------------

    def select(self, particles: Tensor) -> list[Learned]:
        """Harden, fit to the budgets, and keep the best for each: all on a few samples, the better ones on more."""
        settings, parameters = self.settings, 2 * self.kernel.steps
        pool: set[Choice] = set()
        schedules = self.kernel.harden(particles[:, :parameters], self.layers).tolist()
        for schedule, values in zip(schedules, particles[:, parameters:].tolist(), strict=True):
            near = np.abs(np.array(self.budgets) - self.cost.exact(schedule)).argsort(kind="stable")
            for budget in np.array(self.budgets)[near[: settings.neighbours]]:
                try:
                    pool.add((fit_to_budget(schedule, self.cost, float(budget)), tuple(values)))
                except ConfigError:
                    continue
        cost = {choice: self.cost.exact(choice[0]) for choice in pool}
        rough = self._measure(sorted(pool), settings.probe_samples)
        better = {
            choice
            for budget in self.budgets
            for choice in sorted((c for c in rough if cost[c] <= budget), key=rough.__getitem__)[: settings.finalists]
        }
        final = self._measure(sorted(better), settings.select_samples)
        results = []
        for budget in self.budgets:
            allowed = [choice for choice in final if cost[choice] <= budget]
            if allowed:
                best = min(allowed, key=final.__getitem__)
                results.append(Learned(budget, best[0], final[best], dict(zip(self.knobs, best[1], strict=True))))
        return results

    def _measure(self, choices: list[Choice], samples: int) -> dict[Choice, float]:
        """Mean KL on the first ``samples`` samples, tokens dropped."""
        measured: dict[Choice, float] = {}
        for values in dict.fromkeys(values for _, values in choices):
            members = [choice for choice in choices if choice[1] == values]
            evaluator = self.evaluator
            if values:
                knobs = {**evaluator.selector_params, **dict(zip(self.knobs, values, strict=True))}
                evaluator = evaluator.share(evaluator.selector_name, knobs)
            found = evaluator.evaluate([schedule for schedule, _ in members], limit=samples)
            measured |= {choice: float(quality.kl.mean()) for choice, quality in zip(members, found, strict=True)}
        return measured


def _adam(
    parts: Sequence[Tensor],
    settings: LearnedSettings,
    before: torch.optim.Adam | None = None,
    alive: Tensor | None = None,
) -> torch.optim.Adam:
    """Optimiser of positions, sizes and knobs, which become leaves; goes on from rows ``alive`` of ``before``."""
    rates = (settings.centre_lr, settings.lr, settings.knob_lr)
    groups = [{"params": [part.requires_grad_()], "lr": lr} for part, lr in zip(parts, rates, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(0.8, 0.95))
    if before is not None:
        for new, old in zip(optimizer.param_groups, before.param_groups, strict=True):
            state = before.state[old["params"][0]]
            optimizer.state[new["params"][0]] = {
                name: value[alive] if value.dim() else value for name, value in state.items()
            }
    return optimizer


def _between(ends: tuple[float, float], done: float) -> float:
    """Geometric interpolation."""
    return float(ends[0] * (ends[1] / ends[0]) ** done)


def _best_of_each(values: Tensor, owner: Tensor, number: int) -> Tensor:
    """Indices of the ``number`` least values of every owner."""
    chosen = []
    for index in owner.unique().tolist():
        members = (owner == index).nonzero()[:, 0]
        chosen.append(members[values[members].argsort(stable=True)[:number]])
    return torch.cat(chosen).sort().values
