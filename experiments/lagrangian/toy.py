"""A schedule problem without a model: a loss over layers, steps with learnable centres, a cost in whole tokens.

The kernel is that of the search in form: factors of steps that are smooth at first and harden during the run. Hard
centres are whole layers and kept tokens are whole numbers, so the exact cost is a rounding of the soft one, and the gap
between them moves as the steps harden.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vispco.search.lagrangian import AugmentedLagrangian

LAYERS, TOKENS, STEPS = 8, 64, 2
BUDGETS = tuple(tenth / 10 for tenth in range(9, 1, -1))
"""0.1 cannot be met: layer 0 is whole and costs an eighth."""
SHARPNESS = (3.0, 10.0)
UNIT = 1 / TOKENS
"""One token in every layer: about what the exact cost jumps by when a count changes."""


@dataclass(frozen=True)
class Scenario:
    """How a run goes.

    Attributes
    ----------
    steps : int
    falling : float
        Part of the run in which the target falls from 1 to the budget; 0: fixed from the start, and the schedules
        start at their budgets.
    dual_every : int
        Gradient steps between dual steps.
    """

    steps: int
    falling: float
    dual_every: int = 3


@dataclass(frozen=True)
class Trace:
    """What happened.

    Attributes
    ----------
    excess, target : Tensor, shape (steps, problems)
        Exact cost above its target, and the target.
    multiplier, rho : Tensor, shape (dual steps, problems)
    loss : Tensor, shape (problems,)
        Logarithmic, of the last schedule once its sizes are moved onto the budget, as the search does with candidates.
    """

    excess: Tensor
    target: Tensor
    multiplier: Tensor
    rho: Tensor
    loss: Tensor


def worths(seeds: int) -> Tensor:
    """What a layer's tokens are worth, falling with depth and uneven; shape (seeds * budgets, layers)."""
    rows = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        uneven = torch.randn(LAYERS, generator=generator, dtype=torch.float64).exp()
        rows.append(uneven * 0.7 ** torch.arange(LAYERS))
    return torch.stack(rows).repeat_interleave(len(BUDGETS), dim=0)


def start(budget: Tensor, falling: bool) -> tuple[Tensor, Tensor]:
    """Centres and logits of factors, shapes (problems, steps): one cut that meets the budget, or next to none."""
    centres = torch.full((len(budget), STEPS), LAYERS - 1.0, dtype=torch.float64)
    factors = torch.full_like(centres, 0.98)
    centres[:, 0] = (budget * LAYERS / 2).round().clamp(min=1.0)
    if not falling:
        factors[:, 0] = ((budget * LAYERS - centres[:, 0]) / (LAYERS - centres[:, 0])).clamp(0.02, 0.98)
    return centres, factors.logit()


def ratios(centres: Tensor, logits: Tensor, sharpness: float) -> Tensor:
    """Shape (problems, layers)."""
    depth = torch.arange(LAYERS, dtype=torch.float64)[:, None]
    gate = torch.sigmoid(sharpness * (depth - centres[:, None] + 0.5)) * (depth > 0)
    return (1 - gate * torch.sigmoid(-logits[:, None])).prod(dim=-1)


def exact_cost(centres: Tensor, logits: Tensor) -> Tensor:
    """Share of all tokens in all layers, counted; shape (problems,)."""
    hard = ratios(centres.detach().round(), logits.detach(), 1e6)
    return (TOKENS * hard).round().clamp(min=1.0).mean(dim=1) / TOKENS


def loss_of(schedule: Tensor, worth: Tensor) -> Tensor:
    return ((worth * (1 - schedule) ** 2).sum(dim=1) + 0.01).log()


def at_budget(centres: Tensor, logits: Tensor, budget: Tensor) -> Tensor:
    """Hard schedules whose logits are shifted until they cost the budget, or as near as their centres allow."""
    centres, logits = centres.detach().round(), logits.detach()
    low, high = (torch.full_like(budget, end) for end in (-30.0, 30.0))
    for _ in range(50):
        middle = (low + high) / 2
        over = ratios(centres, logits + middle[:, None], 1e6).mean(dim=1) > budget
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return ratios(centres, logits + low[:, None], 1e6)


def run(scenario: Scenario, make: Callable[[int], AugmentedLagrangian], *, seeds: int, step: str = "exact") -> Trace:
    """All budgets of all seeds at once, in one Lagrangian.

    Parameters
    ----------
    scenario : Scenario
    make : callable
        The Lagrangian of a number of problems.
    seeds : int
    step : {"exact", "soft", "none"}
        The violation that dual steps use; none: the multiplier stays 0, which leaves a quadratic penalty.
    """
    budget = torch.tensor(BUDGETS, dtype=torch.float64).repeat(seeds)
    worth = worths(seeds)
    noise = torch.Generator().manual_seed(0)
    parts = [part.requires_grad_() for part in start(budget, scenario.falling > 0)]
    groups = [{"params": [part], "lr": lr} for part, lr in zip(parts, (0.03, 0.15), strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(0.8, 0.95))
    lagrangian = make(len(budget))
    seen: dict[str, list[Tensor]] = {"excess": [], "target": [], "multiplier": [], "rho": []}
    for number in range(scenario.steps):
        done = number / max(1, scenario.steps - 1)
        target = 1 - (1 - budget) * (min(1.0, done / scenario.falling) if scenario.falling else 1.0)
        soft = ratios(*parts, SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** done)
        batch = worth * (0.3 * torch.randn(worth.shape, generator=noise, dtype=torch.float64)).exp()
        optimizer.zero_grad()
        (loss_of(soft, batch) + lagrangian(soft.mean(dim=1) - target)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            parts[0].clamp_(1.0, LAYERS - 1.0)
            parts[1].clamp_(-7.0, 7.0)
        excess = exact_cost(*parts) - target
        if number % scenario.dual_every == scenario.dual_every - 1:
            lagrangian.update(soft.mean(dim=1) - target if step == "soft" else excess)
            if step == "none":
                lagrangian.multiplier = torch.zeros_like(lagrangian.multiplier)
            seen["multiplier"].append(lagrangian.multiplier)
            seen["rho"].append(lagrangian.rho)
        seen["excess"].append(excess)
        seen["target"].append(target)
    loss = loss_of(at_budget(*parts, budget), worth)
    return Trace(**{name: torch.stack(values) for name, values in seen.items()}, loss=loss)
