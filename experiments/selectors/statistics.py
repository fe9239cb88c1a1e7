"""Per-sample scores to intervals, by slice and by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vispco.data import Sample
from vispco.frontier import bootstrap_mean, paired_difference

REFERENCES = ("random", "fastv", "pooling")
"""What every selector is held against, beside the unpruned model."""

PAIRS = (
    ("sparsevlm", "visual_fastv"),
    ("balanced_fastv alpha=0.1", "balanced_fastv alpha=0.9"),
    ("balanced_fastv alpha=0.0", "balanced_fastv alpha=1.0"),
    ("visionzip rule=sum", "visionzip"),
    ("mob preset=strong", "mob preset=weak"),
    ("feather", "feather stride=1"),
)
"""More differences that are asked for."""


def rounded(value: Any) -> Any:
    """Four decimals: a hundredth of a point."""
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(float(value), 4)


def samples_by_slice(samples: Sequence[Sample]) -> dict[str, list[int]]:
    slices: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        slices.setdefault(sample.slice, []).append(index)
    return slices


def record(
    score: np.ndarray, slices: Mapping[str, list[int]], seeds: int, kl: np.ndarray | None = None
) -> dict[str, Any]:
    """Mean score with its interval, of all samples and by slice, and means by seed."""
    found = {
        "score": rounded(bootstrap_mean(score)),
        "seeds": rounded(score.reshape(seeds, -1).mean(axis=1).tolist()),
        "slices": {name: rounded(bootstrap_mean(score[rows])) for name, rows in slices.items()},
    }
    return found if kl is None else found | {"kl": rounded(bootstrap_mean(kl))}


def versus(
    measured: Mapping[str, Mapping[str, np.ndarray]],
    label: str,
    at: int,
    slices: Mapping[str, list[int]],
    whole: np.ndarray | None = None,
    references: Sequence[str] = REFERENCES,
    by_slice: bool = True,
) -> dict[str, Any]:
    """Paired differences of ``label`` at one ratio to those references that were measured before it."""
    own = measured[label]["score"][at]
    found: dict[str, Any] = {}
    if whole is not None:
        found["unpruned"] = {"mean": rounded(paired_difference(own, whole))}
    for name in references:
        if name in measured and name != label:
            other = measured[name]["score"][at]
            found[name] = {"mean": rounded(paired_difference(own, other))}
            if by_slice:
                parts = {part: rounded(paired_difference(own[rows], other[rows])) for part, rows in slices.items()}
                found[name]["slices"] = parts
    return found


def same_choices(measured: Mapping[str, Mapping[str, np.ndarray]]) -> list[list[str]]:
    """Groups of entries whose KL is equal on every sample at every ratio, so that they chose alike."""
    groups: list[list[str]] = []
    for label, both in measured.items():
        for group in groups:
            if np.allclose(measured[group[0]]["kl"], both["kl"], rtol=1e-4, atol=1e-6):
                group.append(label)
                break
        else:
            groups.append([label])
    return [group for group in groups if len(group) > 1]
