"""The learned search: schedules for many budgets by gradient, in one run.

1. *Probe*: the damage of a single cut at every layer, to choose where steps start. Landscapes have walls between good
   cut layers, and a gradient does not cross them.
2. *Train*: one particle per (budget, start), a row of kernel parameters each. All particles see the same samples. The
   objective of a particle with budget b is, with the soft cost C and an augmented Lagrangian AL::

       log(KL + 0.01) + AL(C(r) - b_t),    b_t falling from 1 to b over the first part of the run

   The logarithm has the same minimiser and puts all budgets on one scale. Masks soften and steps flatten at the start
   and harden towards the end (temperature, sharpness). The multiplier answers to the exact cost of integer counts.
   After part of the run the worse starts of every budget are given up.
3. *Select*: particles are hardened, brought exactly onto their own and the neighbouring budgets, and measured with
   tokens physically dropped; per budget the least KL wins.

Everything is charged to the ledger; a backward pass counts as much as its forward.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from vispco.cost import FlopCost
from vispco.engine import observed_attention
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator
from vispco.kernels import MultiStep
from vispco.search.lagrangian import AugmentedLagrangian
from vispco.search.space import Schedule, fit_to_budget, step_schedules


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
    descent : float
        Part of the run in which the budget falls from 1.
    trial : float
        Part of the run after which the worse starts are given up.
    dual_every : int
        Gradient steps between dual steps.
    temperature, sharpness : pair of float
        At the start and at the end, changing geometrically.
    probe_ratios : tuple of float
        Ratios of the probing cuts.
    probe_samples, select_samples : int
    """

    steps: int = 60
    batch: int = 8
    starts: int = 3
    survivors: int = 1
    centre_lr: float = 0.03
    lr: float = 0.1
    descent: float = 0.6
    trial: float = 0.7
    dual_every: int = 3
    temperature: tuple[float, float] = (0.1, 0.01)
    sharpness: tuple[float, float] = (3.0, 10.0)
    probe_ratios: tuple[float, ...] = (0.5, 0.2, 0.05)
    probe_samples: int = 100
    select_samples: int = 300


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after a gradient step; means over the particles."""

    step: int
    loss: float
    violation: float
    multiplier: float


@dataclass(frozen=True)
class Learned:
    """One schedule of the result and the budget it is for."""

    budget: float
    schedule: Schedule
    kl: float


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
    BudgetError
        If a budget cannot be reached.
    ConfigError
        If the model has too few layers for the kernel's steps.
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

    def run(self) -> list[Learned]:
        """The best schedule found for every budget, in falling order of budget."""
        starts, owner = self.choose_starts(self.probe())
        return self.select(self.train(starts, owner))

    # --- 1 -----------------------------------------------------------------------------------------------------------

    def probe(self) -> dict[int, list[float]]:
        """Mean KL of a single cut, by layer, at the falling ``probe_ratios``."""
        schedules = step_schedules(self.layers, self.settings.probe_ratios)
        found = self.evaluator.evaluate(schedules, limit=self.settings.probe_samples)
        damage: dict[int, list[float]] = {}
        for schedule, quality in zip(schedules, found, strict=True):
            damage.setdefault(schedule.count(1.0), []).append(float(quality.kl.mean()))
        return damage

    def predicted_damage(self, damage: dict[int, list[float]], schedule: Schedule) -> float:
        """Sum over cuts of the probed damage at the ratio cut to, interpolated over log ratio."""
        ratios = sorted(self.settings.probe_ratios)
        known = np.log([*ratios, 1.0])
        total = 0.0
        for layer in range(1, self.layers):
            if schedule[layer] < schedule[layer - 1]:
                values = [*damage[layer][::-1], 0.0]
                total += float(np.interp(math.log(schedule[layer]), known, values))
        return total

    def choose_starts(self, damage: dict[int, list[float]]) -> tuple[Tensor, Tensor]:
        """Particles and the budget each belongs to; shapes (particles, 2 * steps), (particles,)."""
        rows, owner = [], []
        choices = list(combinations(range(1, self.layers), self.kernel.steps))
        for index, budget in enumerate(self.budgets):
            ranked = []
            for cuts in choices:
                even = tuple(0.5 ** sum(cut <= layer for cut in cuts) for layer in range(self.layers))
                try:
                    fitted = fit_to_budget(even, self.cost, budget)
                except ConfigError:
                    continue
                ranked.append((self.predicted_damage(damage, fitted), cuts))
            for _, cuts in sorted(ranked)[: self.settings.starts]:
                rows.append(self.kernel.start(cuts))
                owner.append(index)
        return torch.stack(rows), torch.tensor(owner)

    # --- 2 -----------------------------------------------------------------------------------------------------------

    def train(self, parameters: Tensor, owner: Tensor) -> Tensor:
        """Trained particles, shape (survivors, 2 * steps)."""
        settings, steps = self.settings, self.kernel.steps
        centres, logits = parameters[:, :steps].clone(), parameters[:, steps:].clone()
        optimizer = _adam(centres, logits, settings)
        lagrangian = AugmentedLagrangian(len(owner), penalty=30.0, growth=1.5, tolerance=0.9, cap=1e3, damping=0.5)
        final = torch.tensor(self.budgets, dtype=torch.float64)
        merit = torch.zeros(len(owner), dtype=torch.float64)
        with observed_attention(self.evaluator.model):
            for step in range(settings.steps):
                done = step / max(1, settings.steps - 1)
                target = 1 - (1 - final[owner]) * min(1.0, done / settings.descent)
                particles = torch.cat([centres, logits], dim=1)
                ratios = self.kernel.ratios(particles, self.layers, _between(settings.sharpness, done))
                divergence = self.relaxed_divergence(ratios, _between(settings.temperature, done))
                loss = (divergence + 0.01).log()
                objective = loss + lagrangian(self.cost.soft(ratios) - target)
                optimizer.zero_grad()
                objective.sum().backward()
                optimizer.step()
                with torch.no_grad():
                    legal = self.kernel.project(torch.cat([centres, logits], dim=1), self.layers)
                    centres.copy_(legal[:, :steps])
                    logits.copy_(legal[:, steps:])
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
                    centres, logits = centres.detach()[alive], logits.detach()[alive]
                    owner, merit = owner[alive], merit[alive]
                    optimizer = _adam(centres, logits, settings, optimizer, alive)
                    lagrangian.keep(alive)
        return torch.cat([centres, logits], dim=1).detach()

    def relaxed_divergence(self, ratios: Tensor, temperature: float) -> Tensor:
        """Mean KL of every schedule on a fresh draw of samples; shape (particles,), differentiable."""
        batches = self.evaluator.batches
        batch = batches[self.random.integers(len(batches))]
        size = min(self.settings.batch, len(batch.rows))
        part = batch.select(torch.from_numpy(self.random.permutation(len(batch.rows))[:size]))
        every = part.select(torch.arange(size).repeat(len(ratios)))
        self.evaluator.charge_layer(part, part.captured.visual_tokens)
        logits = self.evaluator.replay.relaxed(
            part.captured, ratios, part.rows, temperature=temperature,
            visit=lambda kept: self.evaluator.charge_layer(every, kept, passes=2),
        )  # fmt: skip
        return every.divergence(logits.flatten(0, 1)).unflatten(0, (-1, size)).mean(dim=1)

    # --- 3 -----------------------------------------------------------------------------------------------------------

    def select(self, particles: Tensor) -> list[Learned]:
        """Harden, fit to the budgets and keep the best for each."""
        pool: dict[Schedule, float] = {}
        for schedule in {tuple(row) for row in self.kernel.harden(particles, self.layers).tolist()}:
            near = self.cost.exact(schedule)
            for budget in sorted(self.budgets, key=lambda b, near=near: abs(b - near))[:3]:
                try:
                    pool.setdefault(fit_to_budget(schedule, self.cost, budget), budget)
                except ConfigError:
                    continue
        schedules = list(pool)
        found = self.evaluator.evaluate(schedules, limit=self.settings.select_samples)
        measured = [(float(q.kl.mean()), s, self.cost.exact(s)) for s, q in zip(schedules, found, strict=True)]
        results = []
        for budget in self.budgets:
            allowed = [entry for entry in measured if entry[2] <= budget]
            if allowed:
                kl, schedule, _ = min(allowed)
                results.append(Learned(budget, schedule, kl))
        return results


def _adam(
    centres: Tensor,
    logits: Tensor,
    settings: LearnedSettings,
    before: torch.optim.Adam | None = None,
    alive: Tensor | None = None,
) -> torch.optim.Adam:
    """Optimiser of both parts, which become leaves; it goes on from rows ``alive`` of the one ``before``."""
    groups = [
        {"params": [centres.requires_grad_()], "lr": settings.centre_lr},
        {"params": [logits.requires_grad_()], "lr": settings.lr},
    ]
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
