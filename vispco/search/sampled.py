"""Search by sampling: Optuna proposes schedules and knobs of the selector together, and learns from what they cost.

A proposal is one cut per step at any layer, the share of the tokens that it leaves, and a value for every knob. Its
objectives are the exact cost and ``log(KL + 0.01)`` to the unpruned model, both minimised, so that one study covers all
budgets. The logarithm puts them on one scale: without it, samplers that weigh objectives by area look at the worst.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from vispco.errors import ConfigError
from vispco.search.space import Schedule
from vispco.selectors import Knob, Selector

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
}
"""Optuna's samplers by method name, from a seed."""

LEAST = 0.03
"""Share of the tokens that one cut leaves at least."""


@dataclass(frozen=True)
class Proposal:
    """A schedule with values of the selector's knobs."""

    schedule: Schedule
    knobs: Mapping[str, float]


def check_knobs(selector: Selector, names: Sequence[str]) -> dict[str, Knob]:
    """Ranges of the knobs to tune.

    Raises
    ------
    ConfigError
        If the selector has no knob of a name.
    """
    for name in names:
        if name not in selector.knobs:
            known = ", ".join(selector.knobs) or "none"
            raise ConfigError(f"selector {type(selector).__name__} has no knob {name!r} to tune; its knobs: {known}")
    return {name: selector.knobs[name] for name in names}


def propose(trial: Any, layers: int, steps: int, knobs: Mapping[str, Knob]) -> Proposal:
    """Draw a schedule that falls at up to ``steps`` layers, and a value for every knob.

    Parameters
    ----------
    trial : optuna.Trial
    layers, steps : int
    knobs : mapping of str to Knob
    """
    factors = [1.0] * layers
    for step in range(steps):
        layer = trial.suggest_int(f"layer {step}", 1, layers - 1)
        factors[layer] *= trial.suggest_float(f"share {step}", LEAST, 1.0)
    schedule = tuple(max(round(math.prod(factors[: layer + 1]), 6), 1e-6) for layer in range(layers))
    values = {
        name: trial.suggest_int(name, int(knob.low), int(knob.high))
        if knob.whole
        else trial.suggest_float(name, knob.low, knob.high)
        for name, knob in knobs.items()
    }
    return Proposal(schedule, values)


def sample(
    sampler: str,
    measure: Callable[[Proposal], tuple[float, float]],
    *,
    layers: int,
    steps: int,
    knobs: Mapping[str, Knob],
    trials: int,
    seed: int,
) -> list[Proposal]:
    """Ask for proposals, measure each, and tell what it cost.

    Parameters
    ----------
    sampler : str
        Of :data:`SAMPLERS`.
    measure : callable
        Cost and KL of a proposal.
    layers, steps, trials, seed : int
    knobs : mapping of str to Knob

    Returns
    -------
    list of Proposal
        All that were measured, in order.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=SAMPLERS[sampler](seed))
    proposals = []
    for _ in range(trials):
        trial = study.ask()
        proposals.append(propose(trial, layers, steps, knobs))
        cost, divergence = measure(proposals[-1])
        study.tell(trial, (cost, math.log(divergence + 0.01)))
    return proposals
