"""Percentile bootstrap intervals (Efron and Tibshirani, 1993) over the samples of an evaluation."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vispco.errors import DataError, InputError

BLOCK = 1 << 20
"""Most values drawn at once (8 MiB each of indices and values), but at least one resample; no part of the result."""


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval, in the unit of the values."""

    value: float
    low: float
    high: float


def bootstrap_mean(values: ArrayLike, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of per-sample values with its percentile bootstrap interval.

    ``low`` and ``high`` are the ``(1 - level) / 2`` and ``(1 + level) / 2`` quantiles of the means of ``resamples``
    draws of n values out of n with replacement. Equal arguments give equal results. One value alone gives an interval
    of width 0: it says nothing about the spread.

    Parameters
    ----------
    values : array_like, shape (samples,)
    resamples : int
        At least 1.
    level : float
        Confidence level, 0 < level < 1.
    seed : int
        Seed of the draws.

    Raises
    ------
    DataError
        If the values are none, not one-dimensional or not all finite.
    InputError
        If ``resamples`` or ``level`` is out of range.
    """
    scores = _scores(values, "values")
    if resamples < 1:
        raise InputError(f"resamples {resamples} is below 1; give a positive number, e.g. 2000")
    if not 0.0 < level < 1.0:
        raise InputError(f"level {level} is outside 0..1; give a confidence level, e.g. 0.95")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, BLOCK // scores.size)
    for start in range(0, resamples, rows):
        block = means[start : start + rows]
        block[:] = scores[rng.integers(0, scores.size, size=(block.size, scores.size))].mean(axis=1)
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(scores.mean()), float(low), float(high))


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of ``a - b`` over the same samples, with its percentile bootstrap interval.

    What makes a sample hard for both configurations cancels, so this is tighter than two intervals side by side.

    Parameters
    ----------
    a, b : array_like, shape (samples,)
        Per-sample scores of two configurations; entry i of both belongs to sample i.
    resamples, level, seed
        See :func:`bootstrap_mean`.

    Raises
    ------
    DataError, InputError
        As :func:`bootstrap_mean`, and DataError if ``a`` and ``b`` differ in length.
    """
    first, second = _scores(a, "a"), _scores(b, "b")
    if first.size != second.size:
        raise DataError(f"a has {first.size} values but b has {second.size}; score both on the same samples")
    return bootstrap_mean(first - second, resamples=resamples, level=level, seed=seed)


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not scores.size:
        raise DataError(f"{name} has shape {scores.shape}; give one value per sample, at least one")
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise DataError(f"{name}[{index}] is {scores[index]}; give a finite score for every sample")
    return scores
