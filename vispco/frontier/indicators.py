"""Dominance and quality indicators of point sets, in two objectives: least cost, best quality.

A point ``a`` dominates ``b`` if it is no worse in both objectives and better in one. The arithmetic is moocore's. It
drops rows with NaN and calls an empty set perfect without a word, so whatever goes in is checked here first.
All functions refuse points that :func:`~vispco.frontier.points.comparable` refuses.
"""

import math
from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from vispco.errors import DataError
from vispco.frontier.points import Point, comparable

DISTANCES = frozenset({"kl"})
"""Qualities that are distances to the unpruned model: less is better. Of all others, more is better."""


def pareto_front(points: Sequence[Point], cost: str = "flops", quality: str = "score") -> list[Point]:
    """Points that no other point dominates, by increasing cost.

    Of points equal in both objectives the first one stays. An empty set has an empty front.

    Parameters
    ----------
    points : sequence of Point
    cost, quality : str
        Keys into every point's ``costs`` and ``quality``; see :data:`DISTANCES` for which qualities are minimised.

    Raises
    ------
    DataError
        If a point lacks one of the two numbers or it is not finite, or if the points do not merge.
    """
    losses = _losses(points, cost, quality)
    chosen = np.flatnonzero(moocore.is_nondominated(losses))
    return [points[index] for index in chosen[np.argsort(losses[chosen, 0])]]


def best_at_cost(points: Sequence[Point], limit: float, cost: str = "flops", quality: str = "score") -> Point | None:
    """Point of best quality among those with ``cost <= limit``; of equals the cheaper, then the first.

    Returns ``None`` if no point is that cheap.

    Parameters
    ----------
    limit : float
        Largest cost allowed, in the unit of the cost.
    points, cost, quality
        See :func:`pareto_front`.

    Raises
    ------
    DataError
        As :func:`pareto_front`, and if ``limit`` is NaN.
    """
    if math.isnan(limit):
        raise DataError("limit is nan; give the largest cost allowed, e.g. 0.5")
    losses = _losses(points, cost, quality)
    affordable = [index for index in range(len(points)) if losses[index, 0] <= limit]
    best = min(affordable, key=lambda index: (losses[index, 1], losses[index, 0]), default=None)
    return None if best is None else points[best]


def hypervolume(
    points: Sequence[Point],
    *,
    cost: str = "flops",
    quality: str = "score",
    reference: tuple[float, float] = (1.0, 0.0),
) -> float:
    """Area that the points dominate, bounded by a reference point (Zitzler and Thiele, 1998); more is better.

    With ``p = (cost, quality)``, reference ``(c, q)`` and area ``A``::

        HV = A(union over p of [p_cost, c] x [q, p_quality])

    Points that do not beat the reference in both objectives add nothing; an empty set has 0.0.

    Parameters
    ----------
    reference : tuple of float (cost, quality)
        Worst cost and worst quality that count. For a distance, the largest one that counts: it has no default.
    points, cost, quality
        See :func:`pareto_front`.

    Raises
    ------
    DataError
        As :func:`pareto_front`, and if the reference is not finite or no distance can be below it.
    """
    if not all(map(math.isfinite, reference)):
        raise DataError(f"reference {reference} is not finite; give (worst cost, worst quality), e.g. (1.0, 0.0)")
    if quality in DISTANCES and reference[1] <= 0.0:
        raise DataError(
            f"no {quality} is below {reference[1]:g}; give reference=(worst cost, largest {quality} that counts)"
        )
    losses = _losses(points, cost, quality)
    return float(moocore.hypervolume(losses, ref=(reference[0], _sign(quality) * reference[1])))


def igd_plus(
    points: Sequence[Point], reference_front: Sequence[Point], *, cost: str = "flops", quality: str = "score"
) -> float:
    """Inverted generational distance plus (Ishibuchi et al., 2015): how far the points fall short; 0 is best.

    For losses ``p`` of the points and ``z`` of the front ``Z`` of ``reference_front``::

        IGD+ = 1/|Z| * sum over z of min over p of || max(p - z, 0) ||_2

    Dominated members of ``reference_front`` do not count. Both objectives weigh as given, so they need like scales.

    Parameters
    ----------
    points, reference_front : sequence of Point
    cost, quality : str
        See :func:`pareto_front`.

    Raises
    ------
    DataError
        As :func:`pareto_front`, over both sets together, and if either is empty.
    """
    ours, theirs = _against_front(points, reference_front, cost, quality)
    return float(moocore.igd_plus(ours, ref=theirs))


def epsilon(
    points: Sequence[Point], reference_front: Sequence[Point], *, cost: str = "flops", quality: str = "score"
) -> float:
    """Additive epsilon (Zitzler et al., 2003): the least shift that makes the points cover the front; less is better.

    For losses ``p`` of the points and ``z`` of the front ``Z`` of ``reference_front``::

        eps = max over z of min over p of max over objectives of (p - z)

    Below 0 when the points are better everywhere. Both objectives shift alike, so they need like scales.

    Parameters
    ----------
    points, reference_front : sequence of Point
    cost, quality : str
        See :func:`pareto_front`.

    Raises
    ------
    DataError
        As :func:`pareto_front`, over both sets together, and if either is empty.
    """
    ours, theirs = _against_front(points, reference_front, cost, quality)
    return float(moocore.epsilon_additive(ours, ref=theirs))


def _sign(quality: str) -> float:
    """What turns a quality into a loss."""
    return 1.0 if quality in DISTANCES else -1.0


def _losses(points: Sequence[Point], cost: str, quality: str) -> NDArray[np.float64]:
    """Both objectives to be minimised, shape (points, 2), checked."""
    comparable(points)
    _same_basis(points, cost)
    losses = np.empty((len(points), 2))
    for row, point in zip(losses, points, strict=True):
        row[0] = _number(point, "cost", point.costs, cost)
        row[1] = _sign(quality) * _number(point, "quality", point.quality, quality)
    return losses


def _same_basis(points: Sequence[Point], cost: str) -> None:
    for point in points[1:]:
        ours, other = points[0].basis.get(cost), point.basis.get(cost)
        if ours != other:
            raise DataError(
                f"cost {cost!r} is of {ours} in {points[0].name!r} and of {other} in {point.name!r}, which do not "
                "compare; choose another cost, or runs with the same table and settings"
            )


def _number(point: Point, kind: str, numbers: dict[str, float], key: str) -> float:
    if key not in numbers:
        raise DataError(f"point {point.name!r} has no {kind} {key!r}; choose one of {sorted(numbers)}")
    if not math.isfinite(numbers[key]):
        raise DataError(f"point {point.name!r}: {kind} {key!r} is {numbers[key]}; evaluate it again or leave it out")
    return numbers[key]


def _against_front(
    points: Sequence[Point], reference_front: Sequence[Point], cost: str, quality: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses of the points and of the front they are measured against."""
    for name, members in (("points", points), ("reference_front", reference_front)):
        if not members:
            raise DataError(f"{name} is empty; give at least one evaluated point")
    losses = _losses([*points, *reference_front], cost, quality)
    ours, theirs = losses[: len(points)], losses[len(points) :]
    return ours, theirs[moocore.is_nondominated(theirs)]
