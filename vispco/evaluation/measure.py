"""From schedules to points: the measured record of a configuration."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import JsonValue

from vispco.cost import Cost
from vispco.data import Sample, Task, data_fingerprint
from vispco.engine import fingerprint
from vispco.evaluation.evaluator import Evaluator, Schedule
from vispco.evaluation.prompts import prompt_fingerprint
from vispco.evaluation.teacher import Quality
from vispco.frontier import Point

TASK = Task()
"""The question as it is."""


@dataclass(frozen=True)
class Candidate:
    """A schedule with the label it is to be measured under.

    Attributes
    ----------
    name, method : str
    schedule : schedule
    budget : float or None
    params : dict or None
        Settings of the selector; if None, those of the evaluator, or the defaults of another selector.
    selector : str or None
        Which one; that of the evaluator if None.
    """

    name: str
    method: str
    schedule: Schedule
    budget: float | None = None
    params: Mapping[str, JsonValue] | None = None
    selector: str | None = None


@dataclass(frozen=True)
class Provenance:
    """What points must agree in before they may be compared."""

    seed: int
    backend: str
    dtype: str
    model: str
    prompt: str
    data: str

    @classmethod
    def of(
        cls, model: Any, processor: Any, seed: int, samples: Sequence[Sample] = (), scorer: str = "", task: Task = TASK
    ) -> "Provenance":
        """Read it off a loaded model, the samples, and what judges their answers."""
        return cls(
            seed=seed,
            backend=model.config.get_text_config()._attn_implementation,
            dtype=str(model.dtype).removeprefix("torch."),
            model=fingerprint(model),
            prompt=prompt_fingerprint(processor, task),
            data=data_fingerprint(samples, scorer),
        )


def measure(
    evaluator: Evaluator,
    candidates: Sequence[Candidate],
    provenance: Provenance,
    *,
    split: str,
    metric: str = "score",
    advance: Callable[[float], None] | None = None,
) -> list[tuple[Point, Quality]]:
    """Evaluate every candidate with all its costs, and keep its per-sample quality for paired intervals.

    What the evaluator scores is called ``metric`` in the points: "score" is the official one of the task.

    Candidates with the same selector and settings are evaluated together. Progress counts the samples of all of them as
    one pass.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        groups[repr((candidate.selector or evaluator.selector_name, candidate.params))].append(index)
    measured: dict[int, tuple[Point, Quality]] = {}
    for members in groups.values():
        own, first = evaluator, candidates[members[0]]
        selector = first.selector or evaluator.selector_name
        if first.params is not None or selector != evaluator.selector_name:
            own = evaluator.share(selector, first.params)
        costs = own.costs()
        step = None if advance is None else _part_of(advance, len(members) / len(candidates))
        found = own.evaluate([candidates[index].schedule for index in members], advance=step)
        for index, quality in zip(members, found, strict=True):
            spent = {name: cost.exact(candidates[index].schedule) for name, cost in costs.items()}
            point = make_point(
                candidates[index], quality, own.samples, spent, provenance, basis=basis_of(costs),
                split=split, selector=own.selector_name, selector_params=own.selector_params, metric=metric,
            )  # fmt: skip
            measured[index] = (point, quality)
    return [measured[index] for index in range(len(candidates))]


def _part_of(advance: Callable[[float], None], share: float) -> Callable[[int], None]:
    return lambda samples: advance(samples * share)


def basis_of(costs: Mapping[str, Cost]) -> dict[str, str]:
    """What costs depend on besides the schedule, by name, where they do."""
    return {name: cost.basis for name, cost in costs.items() if cost.basis}


def make_point(
    candidate: Candidate,
    quality: Quality,
    samples: Sequence[Sample],
    costs: Mapping[str, float],
    provenance: Provenance,
    *,
    basis: Mapping[str, str],
    split: str,
    selector: str,
    selector_params: Mapping[str, JsonValue] | None = None,
    metric: str = "score",
) -> Point:
    """The record of one evaluation, with the score of every slice; ``metric`` as of :func:`measure`."""
    slices: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        slices[sample.slice].append(index)
    return Point(
        name=candidate.name,
        method=candidate.method,
        selector=selector,
        selector_params=dict(selector_params or {}),
        keep=candidate.schedule,
        split=split,
        seed=provenance.seed,
        costs=dict(costs),
        basis=dict(basis),
        quality={metric: float(quality.score.mean()), "kl": float(quality.kl.mean())},
        slices={name: float(np.mean(quality.score[members])) for name, members in sorted(slices.items())}
        if metric == "score"
        else {},
        samples=len(samples),
        backend=provenance.backend,
        dtype=provenance.dtype,
        model=provenance.model,
        prompt=provenance.prompt,
        data=provenance.data,
        budget=candidate.budget,
    )
