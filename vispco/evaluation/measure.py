"""From schedules to points: the measured record of a configuration."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vispco.cost import FlopCost
from vispco.engine import fingerprint
from vispco.evaluation.evaluator import Evaluator, Quality, Schedule
from vispco.evaluation.prompts import prompt_fingerprint
from vispco.frontier import Point


@dataclass(frozen=True)
class Candidate:
    """A schedule with the label it is to be measured under."""

    name: str
    method: str
    schedule: Schedule
    budget: float | None = None


@dataclass(frozen=True)
class Provenance:
    """What points must agree in before they may be compared."""

    seed: int
    backend: str
    dtype: str
    model: str
    prompt: str

    @classmethod
    def of(cls, model: Any, processor: Any, seed: int) -> "Provenance":
        """Read it off a loaded model."""
        return cls(
            seed=seed,
            backend=model.config.get_text_config()._attn_implementation,
            dtype=str(model.dtype).removeprefix("torch."),
            model=fingerprint(model),
            prompt=prompt_fingerprint(processor),
        )


def measure(
    evaluator: Evaluator,
    cost: FlopCost,
    candidates: Sequence[Candidate],
    provenance: Provenance,
    *,
    selector: str,
    split: str,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[Point, Quality]]:
    """Evaluate every candidate, and keep its per-sample quality for paired intervals."""
    found = evaluator.evaluate([candidate.schedule for candidate in candidates], advance=advance)
    slices: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(evaluator.samples):
        slices[sample.slice].append(index)
    measured = []
    for candidate, quality in zip(candidates, found, strict=True):
        point = Point(
            name=candidate.name,
            method=candidate.method,
            selector=selector,
            keep=candidate.schedule,
            split=split,
            seed=provenance.seed,
            costs={cost.name: cost.exact(candidate.schedule)},
            quality={"score": float(quality.score.mean()), "kl": float(quality.kl.mean())},
            slices={name: float(np.mean(quality.score[members])) for name, members in sorted(slices.items())},
            samples=len(evaluator.samples),
            backend=provenance.backend,
            dtype=provenance.dtype,
            model=provenance.model,
            prompt=provenance.prompt,
            budget=candidate.budget,
        )
        measured.append((point, quality))
    return measured
