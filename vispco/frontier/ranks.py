"""Rank correlation of two costs over evaluated points."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from vispco.errors import DataError
from vispco.frontier.points import Point


def kendall_tau(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's tau-b (1945): concordant less discordant pairs, over the pairs that are tied in neither.

    With ``C`` concordant and ``D`` discordant pairs, and ``T1`` and ``T2`` pairs tied in one only::

        tau = (C - D) / sqrt((C + D + T1) (C + D + T2))

    Parameters
    ----------
    first, second : array_like, shape (values,)

    Raises
    ------
    DataError
        If all values of one are equal, or there are fewer than two, so that there is no order to compare.
    """
    signs = [np.sign(np.subtract.outer(np.asarray(values), np.asarray(values))) for values in (first, second)]
    untied = [np.abs(sign).sum() for sign in signs]
    if not all(untied):
        raise DataError("there is no rank correlation of values that are all equal; give points of different cost")
    return float((signs[0] * signs[1]).sum() / np.sqrt(untied[0] * untied[1]))


def rank_correlation(points: Sequence[Point], first: str, second: str) -> float:
    """:func:`kendall_tau` of two costs over points.

    Raises
    ------
    DataError
        If a point lacks one of them, or all are equal in one.
    """
    for point in points:
        for cost in (first, second):
            if cost not in point.costs:
                raise DataError(f"point {point.name!r} has no cost {cost!r}; choose one of {sorted(point.costs)}")
    return kendall_tau(*([point.costs[cost] for point in points] for cost in (first, second)))
