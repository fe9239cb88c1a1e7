"""What a sampled search is about: selectors and knobs, the study that it works on, and what a trial is called."""

from collections.abc import Sequence
from pathlib import Path

from optuna.storages import BaseStorage
from pydantic import JsonValue

from vispco.cost import Cost
from vispco.data import Sample, data_fingerprint
from vispco.evaluation import Candidate, Provenance
from vispco.runs import RunSettings
from vispco.runs.settings import SampledMethod
from vispco.search import Proposal, open_storage, share_knobs
from vispco.selectors import Knob, make_selector

JOURNAL = "study.log"
"""Journal in the run folder, which ``storage=journal`` stands for."""


def selectors_of(settings: RunSettings, method: SampledMethod) -> dict[str, dict[str, JsonValue]]:
    """Parameters of every selector to choose from; the run's parameters are for the run's selector alone."""
    own = settings.selector
    return {name: dict(own.params) if name == own.name else {} for name in method.selectors or (own.name,)}


def knobs_of(settings: RunSettings, method: SampledMethod) -> dict[str, dict[str, Knob]]:
    """Knobs to tune of every selector to choose from.

    Raises
    ------
    ConfigError
        If there is no such selector or knob, or a parameter of the run leaves no room for a knob.
    """
    selectors = selectors_of(settings, method)
    knobs = share_knobs({name: make_selector(name, params) for name, params in selectors.items()}, method.tune)
    for name, params in selectors.items():
        make_selector(name, {**params, **{knob: own.low for knob, own in knobs[name].items()}})
    return knobs


def storage_of(method: SampledMethod, folder: Path) -> BaseStorage:
    """Where the study is; ConfigError if it cannot be opened."""
    own = method.storage == "journal"
    return open_storage(str(folder / JOURNAL) if own else method.storage, alone=own)


def identity(
    settings: RunSettings, method: SampledMethod, samples: Sequence[Sample], provenance: Provenance, cost: Cost
) -> dict[str, JsonValue]:
    """What the measured values depend on besides the proposals."""
    selectors: dict[str, JsonValue] = {name: params for name, params in selectors_of(settings, method).items()}
    return {
        "model": provenance.model,
        "prompt": provenance.prompt,
        "backend": provenance.backend,
        "dtype": provenance.dtype,
        "split": settings.data.search_split,
        "samples": len(samples),
        "data": data_fingerprint(samples),
        "cost": [cost.name, cost.basis],
        "limits": [[other.name, other.basis, limit] for other, limit in cost.limits.items()],
        "selectors": selectors,
    }


def candidate(settings: RunSettings, method: SampledMethod, number: int, proposal: Proposal) -> Candidate:
    """A trial under its name, as it is measured on every split."""
    params = {**selectors_of(settings, method)[proposal.selector], **proposal.knobs}
    tuned = proposal.knobs or proposal.selector != settings.selector.name
    return Candidate(
        f"{method.name} {number}", method.name, proposal.schedule,
        params=params if tuned else None, selector=proposal.selector,
    )  # fmt: skip
