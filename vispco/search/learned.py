"""The learned search: schedules for many budgets by gradient, in one run.

1. *Start*: single cuts are probed at every layer (:class:`vispco.search.probe.Damage`), and the best predicted
   schedules of the kernel within each budget are where training starts: cut layers are chosen there, because a gradient
   does not cross the walls between them.
2. *Train*: all schedules see the same samples. The objective of one with budget b is, with the soft cost C, an
   augmented Lagrangian AL, and the loss ``1 - exp(-KL)`` averaged over samples::

       log(mean loss + 0.01) + AL(C(r) - b)

   Limits on other costs are further constraints of AL, each with a multiplier of its own.

   The logarithm has the same minimiser and puts all budgets on one scale. Masks soften and steps flatten at the start
   and harden towards the end (temperature, sharpness). The multiplier answers to the exact cost of integer counts.
   What is learned is either one row of kernel parameters per start, or a predictor from the budget to such rows
   (:mod:`vispco.search.predictor`), which shares what it learns between budgets and answers for any of them.
3. *Select*: what training started from and ended with are hardened, brought exactly onto their budgets and measured
   with tokens physically dropped, on the same samples; the better one is kept.
4. *Polish*: local moves of the schedules, if any rounds are asked for (:mod:`vispco.search.polish`).

Smooth knobs of the selector can be trained along: every row has values of its own, which start at those of the settings
and stay in their ranges.

The training is put down after every step, if the evaluator has a state with a folder, and taken up from there.

Everything is charged to the ledger; a backward pass counts as much as its forward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from vispco import parallel
from vispco.capacity import within_memory
from vispco.cost import Cost
from vispco.engine import observed_attention, relaxed_losses
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator, TeacherBatch
from vispco.kernels import Kernel
from vispco.search.divergence import check_step
from vispco.search.lagrangian import AugmentedLagrangian
from vispco.search.learned_settings import LearnedSettings
from vispco.search.polish import polish
from vispco.search.predictor import Answers, Predictor, PromptFeatures, Table
from vispco.search.probe import Damage
from vispco.search.sampled import check_knobs
from vispco.search.space import Schedule, fit_to_budget
from vispco.search.starts import choose_starts
from vispco.search.training import Progress, Training

SMALLEST = 0.01
"""Added to a loss before its logarithm is taken: differences below it do not matter."""

SNAPSHOTS = "learned"
"""What the training's snapshots are called."""

Choice = tuple[Schedule, tuple[float, ...]]
"""A schedule and the values of the trained knobs."""


@dataclass(frozen=True)
class Learned:
    """One schedule of the result, with trained knobs, the budget it is for, and its KL on the samples of the choice."""

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
    cost : Cost
    kernel : Kernel
    budgets : sequence of float
    settings : LearnedSettings
    seed : int
    report : callable or None
        Called with a :class:`Progress` after every step.

    Raises
    ------
    ConfigError
        If a knob cannot be trained, or not with polishing.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        cost: Cost,
        kernel: Kernel,
        budgets: Sequence[float],
        settings: LearnedSettings,
        *,
        seed: int = 0,
        report: Callable[[Progress], None] | None = None,
    ):
        self.evaluator, self.cost, self.kernel, self.settings = evaluator, cost, kernel, settings
        self.asked = sorted(budgets, reverse=True)
        self.report = report
        self.random = np.random.default_rng(seed)
        self.knobs = check_knobs(evaluator.selector, settings.tune)
        rough = set(settings.tune) - evaluator.selector.smooth_knobs
        if rough:
            raise ConfigError(
                f"knob {min(rough)!r} of selector {evaluator.selector_name} has no gradient; tune it with search=tpe"
            )
        if settings.tune and settings.polish_rounds:
            raise ConfigError("polishing moves schedules, not knobs; give polish_rounds=0 with tune, or leave tune out")
        low = torch.tensor([float(knob.low) for knob in self.knobs.values()])
        high = torch.tensor([float(knob.high) for knob in self.knobs.values()])
        self.rates = torch.cat([kernel.rates, settings.knob_lr * (high - low)])
        self.knob_bounds = low, high
        self.predictor: Predictor | None = None
        self.features = PromptFeatures.fit(evaluator.batches) if settings.per_sample else None

    @property
    def budgets(self) -> list[float]:
        """Budgets that are trained, falling: the asked ones, and for a predictor others between them."""
        more = self.settings.anchors - len(self.asked)
        if not self.settings.predictor or more <= 0:
            return self.asked
        between = np.geomspace(self.asked[0], self.asked[-1], more + 2)[1:-1]
        return sorted({*self.asked, *(round(float(budget), 4) for budget in between)}, reverse=True)

    def run(self) -> list[Learned]:
        """The best schedule found for every trained budget, falling."""
        starts, owner = self.choose_starts()
        untrained = self.fit(starts, owner)
        candidates = untrained + self.fit(self.train(starts, owner), owner, untrained)
        measured = self.measure(sorted({choice for _, choice in candidates}))
        if self.predictor is not None:
            losses = torch.tensor([measured[choice][0] for _, choice in candidates])
            before, after = (losses + SMALLEST).log().view(2, -1).mean(dim=1)
            if after > before:
                self.predictor.forget()
        return self.polish(self.best(candidates, measured))

    @property
    def answers(self) -> Answers | None:
        """Schedules for any budget, from the trained predictor if there is one."""
        if self.predictor is None:
            return None
        return Answers(self.predictor, self.kernel, self.cost, tuple(self.knobs), self.features)

    # --- 1 -----------------------------------------------------------------------------------------------------------

    def choose_starts(self) -> tuple[Tensor, Tensor]:
        """Rows of kernel parameters and knobs, and the index of each one's budget."""
        settings = self.settings
        damage = Damage.probe(self.evaluator, settings.probe_ratios, settings.probe_samples)
        levels = np.geomspace(0.9, 0.02, settings.start_levels).tolist()
        rows, owner = choose_starts(self.kernel, damage, self.cost, self.budgets, settings.starts, levels)
        values = torch.tensor([float(getattr(self.evaluator.selector, name)) for name in self.knobs])
        return torch.cat([rows, values.expand(len(rows), -1)], dim=1), owner

    # --- 2 -----------------------------------------------------------------------------------------------------------

    def train(self, starts: Tensor, owner: Tensor) -> Tensor:
        """Trained rows, of the shape of ``starts``.

        Raises
        ------
        NumericError
            If a loss, gradient or parameter is not finite any more.
        """
        settings = self.settings
        targets = torch.tensor(self.budgets, dtype=torch.float64)[owner]
        learned = self.make_learned(starts, targets)
        # A predictor's weights act together: a step of each moves its output by about as much as one of a row does.
        rate = settings.lr if isinstance(learned, Table) else 0.05 * settings.lr
        optimizer = torch.optim.Adam(learned.parameters(), lr=rate, betas=(0.8, 0.95))
        budgets = targets.tolist()
        constraints = 1 + len(self.cost.limits)
        lagrangian = AugmentedLagrangian(
            len(owner), constraints, penalty=30.0, growth=1.5, tolerance=0.9, cap=1e3, damping=0.5
        )
        training = Training(learned, optimizer, lagrangian, self.random, self.evaluator.ledger, self.report)
        state = self.evaluator.state
        if snapshot := state.latest(SNAPSHOTS):
            training.restore(snapshot)
        with observed_attention(self.evaluator.replay.family):
            for step in range(len(training.history), settings.steps):
                done = step / max(1, settings.steps - 1)
                batch, features = self.draw()
                rows = self.legal(learned(features))
                rows.retain_grad()
                ratios = self.kernel.ratios(rows[..., : self.kernel.size], _between(settings.sharpness, done))
                losses = self.relaxed_loss(batch, ratios, _between(settings.temperature, done), self.knobs_of(rows))
                violation = self.cost.excess(ratios, targets)
                loss = (losses.mean(dim=1) + SMALLEST).log()
                check_step("the loss", loss, budgets, step)
                optimizer.zero_grad()
                (loss + lagrangian(violation)).sum().backward()
                assert rows.grad is not None
                check_step("the gradient", rows.grad, budgets, step)
                optimizer.step()
                check_step("the parameters", learned().detach(), budgets, step)
                exact = self.exact_violation(learned, targets)
                if step % settings.dual_every == settings.dual_every - 1:
                    lagrangian.update(exact)
                means = loss.mean().item(), exact.clamp(min=0.0).mean().item(), lagrangian.multiplier.mean().item()
                training.add(Progress(step, *means))
                state.save(SNAPSHOTS, training.snapshot())
        return self.legal(learned()).detach()

    def make_learned(self, starts: Tensor, targets: Tensor) -> nn.Module:
        """What is trained: it gives rows of the shape of ``starts``, equal to them at first."""
        if not self.settings.predictor:
            return Table(starts, self.rates)
        number = 0 if self.features is None else self.features.components.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.random.integers(2**31)))
            self.predictor = Predictor(targets, starts, self.rates, number)
        return self.predictor

    def legal(self, rows: Tensor) -> Tensor:
        """Rows moved to legal values; the gradient passes, so that what went outside can come back."""
        kernel, (low, high) = self.kernel, self.knob_bounds
        parts = kernel.project(rows[..., : kernel.size]), rows[..., kernel.size :].clamp(low, high)
        inside = torch.cat(parts, dim=-1)
        return rows + (inside - rows).detach()

    def knobs_of(self, rows: Tensor) -> dict[str, Tensor]:
        """Values of the trained knobs in every row."""
        return dict(zip(self.knobs, rows[..., self.kernel.size :].unbind(dim=-1), strict=True))

    def exact_violation(self, learned: nn.Module, targets: Tensor) -> Tensor:
        """Exact cost of every row less its budget, and of the limits; shape (rows, constraints)."""
        with torch.no_grad():
            schedules = self.kernel.harden(self.legal(learned())[:, : self.kernel.size])
        pairs = zip(schedules.tolist(), targets.tolist(), strict=True)
        return torch.tensor([self.cost.exact_excess(*pair) for pair in pairs], dtype=torch.float64)

    def draw(self) -> tuple[TeacherBatch, Tensor | None]:
        """A fresh draw of samples, and their features if the predictor looks at them."""
        batches = self.evaluator.batches
        whole = batches[self.random.integers(len(batches))]
        size = min(self.settings.batch, len(whole.rows))
        batch = whole.select(torch.from_numpy(self.random.permutation(len(whole.rows))[:size]))
        return batch, None if self.features is None else self.features.of(batch)

    def relaxed_loss(
        self, batch: TeacherBatch, ratios: Tensor, temperature: float, knobs: Mapping[str, Tensor]
    ) -> Tensor:
        """Loss of every schedule on every sample of a batch, shape (schedules, batch), differentiable.

        Parameters
        ----------
        batch : TeacherBatch
        ratios : Tensor, shape (schedules, layers), or (schedules, batch, layers)
        temperature : float
        knobs : mapping of str to Tensor, shape (schedules,), or (schedules, batch)

        Raises
        ------
        CapacityError
            If the batch does not fit into memory, with the size of one that does.
        """

        def losses(size: int) -> Tensor:
            part = batch.head(size)
            own = ratios[:, :size] if ratios.dim() == 3 else ratios
            values = {name: value[:, :size] if value.dim() == 2 else value for name, value in knobs.items()}

            def lost(samples: Tensor, logits: Tensor) -> Tensor:
                return -torch.expm1(-part.select(samples).divergence(logits))

            def charge(samples: Tensor, kept: Tensor, passes: int) -> None:
                self.evaluator.charge_layer(part.select(samples), kept, passes)

            return relaxed_losses(
                self.evaluator.replay, part.captured, own, part.rows, lost, temperature=temperature,
                hard=self.settings.straight_through, knobs=values, visit=charge,
            )  # fmt: skip

        if parallel.size() > 1:  # the others take part in every call, and would not in a trial of fewer samples
            return losses(len(batch.rows))
        return within_memory(losses, len(batch.rows), "search.batch")

    # --- 3 -----------------------------------------------------------------------------------------------------------

    def fit(
        self, rows: Tensor, owner: Tensor, instead: Sequence[tuple[float, Choice]] = ()
    ) -> list[tuple[float, Choice]]:
        """Rows hardened and brought exactly onto their budgets; each with its budget.

        A row whose cuts have come to stand too late for its budget is replaced by its like in ``instead``.
        """
        schedules = self.kernel.harden(rows[:, : self.kernel.size]).tolist()
        knobs = rows[:, self.kernel.size :].tolist()
        fitted: list[tuple[float, Choice]] = []
        for place, (schedule, values, index) in enumerate(zip(schedules, knobs, owner.tolist(), strict=True)):
            budget = self.budgets[index]
            try:
                fitted.append((budget, (fit_to_budget(schedule, self.cost, budget), tuple(values))))
            except ConfigError:
                if not instead:
                    raise
                fitted.append(instead[place])
        return fitted

    def best(
        self, candidates: Sequence[tuple[float, Choice]], measured: Mapping[Choice, tuple[float, float]]
    ) -> list[Learned]:
        """The candidate with the least loss for every budget."""
        results = []
        for budget in self.budgets:
            own = [choice for target, choice in candidates if target == budget]
            schedule, values = chosen = min(own, key=lambda choice: measured[choice][0])
            results.append(Learned(budget, schedule, measured[chosen][1], dict(zip(self.knobs, values, strict=True))))
        return results

    def polish(self, results: list[Learned]) -> list[Learned]:
        """Results after local moves of their schedules."""
        settings = self.settings
        if not settings.polish_rounds:
            return results
        found = polish(
            {result.budget: result.schedule for result in results}, self.evaluator, self.cost,
            rounds=settings.polish_rounds, samples=settings.polish_samples, seed=int(self.random.integers(2**31)),
        )  # fmt: skip
        moved = sorted({(schedule, ()) for schedule in found.schedules.values()})
        measured = self.measure(moved)
        return [replace(r, schedule=(best := found.schedules[r.budget]), kl=measured[best, ()][1]) for r in results]

    def measure(self, choices: Sequence[Choice]) -> dict[Choice, tuple[float, float]]:
        """Mean loss and KL, tokens dropped."""
        measured: dict[Choice, tuple[float, float]] = {}
        for values in dict.fromkeys(values for _, values in choices):
            members = [choice for choice in choices if choice[1] == values]
            evaluator = self.evaluator
            if values:
                knobs = {**evaluator.selector_params, **dict(zip(self.knobs, values, strict=True))}
                evaluator = evaluator.share(evaluator.selector_name, knobs)
            found = evaluator.evaluate([schedule for schedule, _ in members], limit=self.settings.select_samples)
            for choice, quality in zip(members, found, strict=True):
                measured[choice] = float(quality.lost.mean()), float(quality.kl.mean())
        return measured


def _between(ends: tuple[float, float], done: float) -> float:
    """Geometric interpolation."""
    return float(ends[0] * (ends[1] / ends[0]) ** done)
