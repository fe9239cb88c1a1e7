"""Optuna's samplers under a seed for every trial.

What they make of the objectives and of the constraint on the cost:

* ``random`` knows neither: best of N.
* ``tpe`` draws ten at random, then models good and bad trials, each parameter by itself with several budgets and
  jointly with one; what breaks the constraint is bad, the more the worse; what other workers are at counts as bad.
* ``nsga2`` breeds generations of twenty; within the budget beats beyond it, and less beyond beats more. A trial that
  repeats one of a dead worker counts as a result, but Optuna does not breed from it.

A trial is drawn with a seed made of the search's seed and the trial's place in the study, so workers that share a study
never draw the same, and a study that was interrupted goes on as if it had not been (with ``nsga2`` to the end of that
generation).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from vispco.search.leases import RETRY_OF

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
}
"""Optuna's samplers by method name, from a seed."""


class SeededSampler(optuna.samplers.BaseSampler):
    """A sampler that starts afresh at every trial, with a seed that is the trial's own.

    Trials that repeat others are not counted, so that what follows them is what would have followed without.
    """

    def __init__(self, name: str, seed: int):
        self._make, self._seed = SAMPLERS[name], seed
        self._inner = self._make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Take the seed of this trial."""
        number = trial.user_attrs.get(RETRY_OF, trial.number)
        others = study.get_trials(deepcopy=False)
        place = sum(other.number < number and RETRY_OF not in other.user_attrs for other in others)
        self._inner = self._make(int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0]))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler does."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the sampler does."""
        self._inner.after_trial(study, trial, state, values)
