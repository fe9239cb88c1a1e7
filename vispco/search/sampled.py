"""Search by sampling: Optuna proposes schedules, selectors and their knobs together, and learns from what they cost.

A proposal is one cut per step at any layer, the share of the tokens that it leaves, a selector, and a value for every
knob of that selector. All samplers draw from this one space. With several budgets one study covers them all: it
minimises the exact cost and ``log(KL + 0.01)`` to the unpruned model; the logarithm puts both on one scale, without
which samplers that weigh objectives by area look at the worst. With one budget only the second is minimised. Either way
``cost - largest budget <= 0`` is a constraint, and so is every limit on another cost. There is none from below: what
costs less than the least budget is allowed under all of them.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import JsonValue

from vispco.errors import ConfigError
from vispco.search.leases import BEAT, GRACE, RETRY_OF, Leases
from vispco.search.samplers import SeededSampler
from vispco.search.space import Schedule
from vispco.search.studies import VERSION, open_study
from vispco.selectors import Knob, Selector

LEAST = 0.03
"""Share of the tokens that one cut leaves at least."""

POLL = 0.1
"""Seconds between two looks at what other workers are doing."""

COST, QUALITY = "cost", "log(kl + 0.01)"
"""What is minimised, in this order."""

MEASURED = "measured"
"""Attribute of a trial."""


@dataclass(frozen=True)
class Proposal:
    """A schedule, a selector, and values of its knobs."""

    schedule: Schedule
    selector: str
    knobs: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """What a proposal turned out to be.

    Attributes
    ----------
    cost, kl : float
        On the search split.
    forwards : float
        Model FLOPs that it took, in forwards of the unpruned model over one sample.
    record : dict
        What else is to be kept, as JSON.
    over : tuple of float
        Other costs less their limits; above 0 a limit is not held.
    """

    cost: float
    kl: float
    forwards: float = 0.0
    record: Mapping[str, JsonValue] = field(default_factory=dict)
    over: tuple[float, ...] = ()


@dataclass(frozen=True)
class Told:
    """A finished trial."""

    number: int
    proposal: Proposal
    measured: Measured


@dataclass(frozen=True)
class Space:
    """What proposals are drawn from.

    Attributes
    ----------
    layers, steps : int
        Of the model, and how often a schedule may fall.
    knobs : dict of str to dict of str to Knob
        Knobs to tune by selector.
    """

    layers: int
    steps: int
    knobs: Mapping[str, Mapping[str, Knob]]

    def propose(self, trial: Any) -> Proposal:
        """Draw from a ``Trial``, or read what a ``FrozenTrial`` was."""
        factors = [1.0] * self.layers
        for step in range(self.steps):
            layer = trial.suggest_int(f"layer {step}", 1, self.layers - 1)
            factors[layer] *= trial.suggest_float(f"share {step}", LEAST, 1.0)
        schedule = tuple(max(round(math.prod(factors[: layer + 1]), 6), 1e-6) for layer in range(self.layers))
        selector = trial.suggest_categorical("selector", list(self.knobs))
        values = {
            name: (trial.suggest_int if knob.whole else trial.suggest_float)(f"{selector}.{name}", knob.low, knob.high)
            for name, knob in self.knobs[selector].items()
        }
        return Proposal(schedule, selector, values)

    def describe(self) -> dict[str, JsonValue]:
        """The space as JSON."""
        knobs: dict[str, JsonValue] = {
            selector: {name: [knob.low, knob.high] for name, knob in own.items()}
            for selector, own in self.knobs.items()
        }
        return {"layers": self.layers, "steps": self.steps, "knobs": knobs}


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


def share_knobs(selectors: Mapping[str, Selector], names: Sequence[str]) -> dict[str, dict[str, Knob]]:
    """Ranges of the knobs to tune by selector; a name is for every selector that has it.

    Raises
    ------
    ConfigError
        If no selector has a knob of a name.
    """
    if len(selectors) == 1:
        return {name: check_knobs(selector, names) for name, selector in selectors.items()}
    known = {knob for selector in selectors.values() for knob in selector.knobs}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"none of the selectors {', '.join(selectors)} has a knob {name!r} to tune; "
                f"their knobs: {', '.join(sorted(known)) or 'none'}"
            )
    return {
        name: check_knobs(selector, [knob for knob in names if knob in selector.knobs])
        for name, selector in selectors.items()
    }


class SampledSearch:
    """One worker of a study: asks for proposals, has each measured, and tells what it cost.

    Parameters
    ----------
    sampler : str
        Of :data:`vispco.search.samplers.SAMPLERS`.
    space : Space
    budgets : sequence of float
        Allowed costs.
    trials : int
        Finished trials of the study, by all its workers together; a study that has them needs no more.
    seed : int
    storage : BaseStorage or None
        From :func:`vispco.search.open_storage`; memory if None.
    study : str
        Name of the study in the storage.
    identity : mapping
        What else the workers of a study must agree in, as JSON: model, data and so on.
    report : callable or None
        Called with the number of finished trials when it may have grown.
    beat, grace : float
        Of the leases.
    """

    def __init__(
        self,
        sampler: str,
        space: Space,
        budgets: Sequence[float],
        *,
        trials: int,
        seed: int,
        storage: BaseStorage | None = None,
        study: str = "study",
        identity: Mapping[str, JsonValue] | None = None,
        report: Callable[[int], None] | None = None,
        beat: float = BEAT,
        grace: float = GRACE,
    ):
        self.space, self.trials, self.largest = space, trials, max(budgets)
        self.report = report or (lambda done: None)
        self.objectives = [QUALITY] if len(budgets) == 1 else [COST, QUALITY]
        about: dict[str, JsonValue] = {
            "search version": VERSION,
            "method": sampler,
            "seed": seed,
            "objectives": ", ".join(self.objectives),
            "largest budget": self.largest,
            **space.describe(),
            **(identity or {}),
        }
        self.study = open_study(storage or InMemoryStorage(), study, about, len(self.objectives))
        self.study.sampler = SeededSampler(sampler, seed)
        self.leases = Leases(self.study, beat, grace)

    def run(self, measure: Callable[[int, Proposal], Measured]) -> list[Told]:
        """Work until the study has its trials.

        Parameters
        ----------
        measure : callable
            What becomes of a trial's number and its proposal.

        Returns
        -------
        list of Told
            The first ``trials`` finished ones by number, whoever measured them.
        """
        while True:
            self.leases.reclaim()
            trials = self.study.get_trials(deepcopy=False)
            states = [trial.state for trial in trials]
            done = states.count(TrialState.COMPLETE)
            self.report(min(done, self.trials))
            if done >= self.trials:
                return [self._read(trial) for trial in trials if trial.state == TrialState.COMPLETE][: self.trials]
            if TrialState.WAITING in states or self._alive(trials) < self.trials:
                # An update of a finished trial: others took this worker for dead and queued the proposal again.
                with suppress(UpdateFinishedTrialError):
                    self._work(measure)
            else:
                time.sleep(POLL)  # others are at the last trials; should they die, these are left to this worker

    def _is_needless(self, trial: Trial) -> bool:
        """Whether there are trials enough without this one, or another repeats the same.

        Several workers may have seen room for one more, and where a database does not lock its rows, several may have
        noticed the same death. Numbers are given once, so all agree that the lower one stays.
        """
        before = [other for other in self.study.get_trials(deepcopy=False) if other.number < trial.number]
        repeated = [other.user_attrs[RETRY_OF] for other in before if RETRY_OF in other.user_attrs]
        return self._alive(before) >= self.trials or trial.user_attrs.get(RETRY_OF) in repeated

    @staticmethod
    def _alive(trials: Sequence[FrozenTrial]) -> int:
        return sum(trial.state != TrialState.FAIL for trial in trials)

    def _work(self, measure: Callable[[int, Proposal], Measured]) -> None:
        """Ask, measure, tell."""
        trial = self.study.ask()
        with self.leases.hold(trial):
            if self._is_needless(trial):
                self._finish(trial, state=TrialState.FAIL)
                return
            try:
                measured = measure(trial.number, self.space.propose(trial))
            except BaseException:
                self.leases.give_up(self.study.get_trials(deepcopy=False)[trial.number])
                raise
        values = {COST: measured.cost, QUALITY: math.log(measured.kl + 0.01)}
        trial.set_user_attr(MEASURED, asdict(measured))
        trial.set_constraint("cost - largest budget", measured.cost - self.largest)
        for place, over in enumerate(measured.over):
            trial.set_constraint(f"limit {place}", over)
        self._finish(trial, [values[name] for name in self.objectives])

    def _finish(self, trial: Trial, values: Sequence[float] | None = None, state: TrialState | None = None) -> None:
        try:
            self.study.tell(trial, values, state)
        except ValueError as error:
            if self.study.get_trials(deepcopy=False)[trial.number].state != TrialState.FAIL:
                raise
            raise UpdateFinishedTrialError from error

    def _read(self, trial: FrozenTrial) -> Told:
        known = trial.user_attrs[MEASURED]
        return Told(trial.number, self.space.propose(trial), Measured(**{**known, "over": tuple(known["over"])}))
