"""Percentile bootstrap intervals (Efron and Tibshirani, 1993) over the samples of an evaluation."""

from collections.abc import Iterator
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


def bootstrap_mean(
    values: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of per-sample values with its percentile bootstrap interval.

    ``low`` and ``high`` are the ``(1 - level) / 2`` and ``(1 + level) / 2`` quantiles of the means of ``resamples``
    draws of n values out of n with replacement. Equal arguments give equal results. One value alone gives an interval
    of width 0: it says nothing about the spread.

    Parameters
    ----------
    values : array_like, shape (samples,)
    clusters : array_like, shape (samples,), or None
        Labels of what samples have in common, such as their picture: clusters are drawn then, whole, and a draw's mean
        is that of all its samples. None if nothing is in common.
    resamples : int
        At least 1.
    level : float
        Confidence level, 0 < level < 1.
    seed : int
        Seed of the draws.

    Raises
    ------
    DataError
        If the values are none, not one-dimensional or not all finite, or there is not one cluster for each.
    InputError
        If ``resamples`` or ``level`` is out of range.
    """
    scores = _scores(values, "values")
    sums, sizes = _by_cluster(scores[:, None], clusters)
    means = [part[:, 0] / size for part, size in _draws(sums, sizes, resamples, level, seed)]
    return _interval(float(scores.mean()), np.concatenate(means), level)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of ``a - b`` over the same samples, with its percentile bootstrap interval.

    What makes a sample hard for both configurations cancels, so this is tighter than two intervals side by side.

    Parameters
    ----------
    a, b : array_like, shape (samples,)
        Per-sample scores of two configurations; entry i of both belongs to sample i.
    clusters, resamples, level, seed
        See :func:`bootstrap_mean`.

    Raises
    ------
    DataError, InputError
        As :func:`bootstrap_mean`, and DataError if ``a`` and ``b`` differ in length.
    """
    first, second = _pair(a, b)
    return bootstrap_mean(first - second, clusters=clusters, resamples=resamples, level=level, seed=seed)


def paired_ratio(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Mean of ``a`` over mean of ``b`` on the same samples, with its percentile bootstrap interval.

    Both means of a draw are over the same samples. None where ``b`` is 0 on average, in the data or in a draw: there is
    nothing then to take a fraction of.

    Parameters
    ----------
    a, b : array_like, shape (samples,)
    clusters, resamples, level, seed
        See :func:`bootstrap_mean`.

    Raises
    ------
    DataError, InputError
        As :func:`paired_difference`.
    """
    first, second = _pair(a, b)
    sums, sizes = _by_cluster(np.stack([first, second], axis=1), clusters)
    drawn = np.concatenate([part for part, _ in _draws(sums, sizes, resamples, level, seed)])
    if not second.sum() or not drawn[:, 1].all():
        return None
    return _interval(float(first.sum() / second.sum()), drawn[:, 0] / drawn[:, 1], level)


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _scores(a, "a"), _scores(b, "b")
    if first.size != second.size:
        raise DataError(f"a has {first.size} values but b has {second.size}; score both on the same samples")
    return first, second


def _by_cluster(
    columns: NDArray[np.float64], clusters: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of every column over each cluster, shape (clusters, columns), and their sizes."""
    if clusters is None:
        return columns, np.ones(len(columns))
    labels = np.asarray(clusters)
    if labels.shape != (len(columns),):
        raise DataError(f"clusters has shape {labels.shape} for {len(columns)} values; give one label per sample")
    _, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), columns.shape[1]))
    np.add.at(sums, place, columns)
    return sums, sizes.astype(np.float64)


def _draws(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, level: float, seed: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Sums of the columns over the samples of every draw, shape (draws, columns), and how many samples it has."""
    if resamples < 1:
        raise InputError(f"resamples {resamples} is below 1; give a positive number, e.g. 2000")
    if not 0.0 < level < 1.0:
        raise InputError(f"level {level} is outside 0..1; give a confidence level, e.g. 0.95")
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(sizes))
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, len(sizes), size=(min(rows, resamples - start), len(sizes)))
        columns = [column[drawn].sum(axis=1) for column in sums.T]  # one by one: a block of all would be larger
        yield np.stack(columns, axis=1), sizes[drawn].sum(axis=1)


def _interval(value: float, drawn: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(value, float(low), float(high))


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not scores.size:
        raise DataError(f"{name} has shape {scores.shape}; give one value per sample, at least one")
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise DataError(f"{name}[{index}] is {scores[index]}; give a finite score for every sample")
    return scores
