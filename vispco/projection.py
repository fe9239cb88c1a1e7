"""From a schedule to one ratio before the first layer: the only form that serving engines can run."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction

from vispco.errors import ConfigError

STEPS = 10**6
"""Ratios that were searched for have six decimals, so that people can read them."""


def uniform_ratio(keep: Sequence[float], cost: Callable[[Sequence[float]], float] | None = None) -> float:
    """The ratio that costs as much as ``keep`` when it holds in every layer.

    Parameters
    ----------
    keep : sequence of float, length layers
        A schedule. One that is uniform already gives its own ratio.
    cost : callable or None
        Cost of a schedule, which must not fall when ratios rise. The result is the largest ratio of six decimals that
        costs no more than ``keep``; where counts are rounded, the upper end of the ratios that round alike. None: the
        mean of ``keep``.

    Raises
    ------
    ConfigError
        If ``cost`` gives no number, or falls when ratios rise.
    """
    if keep[0] == keep[-1]:
        return keep[0]
    if cost is None:
        # Ratios come from decimal text, so that is what is averaged: a float sum of 0.1, 0.1, ... is off by a digit.
        return float(sum(Fraction(str(ratio)) for ratio in keep) / len(keep))

    def spent(step: int) -> float:
        return cost((step / STEPS,) * len(keep))

    allowed = cost(keep)
    step = max(bisect_right(range(STEPS + 1), allowed, key=spent) - 1, 0)
    if not spent(step) <= allowed:
        raise ConfigError(
            f"cost gives {spent(step)} for a ratio of {step / STEPS:g} in every layer and {allowed} for the schedule; "
            "give a cost that is a number and does not fall when ratios rise"
        )
    return step / STEPS


def describe_loss(keep: Sequence[float], ratio: float, selector: str, other: str) -> str:
    """What ``ratio`` in every layer, with selector ``other``, loses against ``keep`` with ``selector``, in words."""
    changed = f"by {other} instead of {selector}"
    if all(own == ratio for own in keep):
        same = f"every layer sees {_percent(ratio)} % of the visual tokens already"
        return f"Nothing is lost: {same}." if other == selector else f"Tokens are chosen {changed}; {same}."
    fewer = [layer for layer, own in enumerate(keep) if own > ratio]
    more = [layer for layer, own in enumerate(keep) if own < ratio]
    clauses = " and ".join(_clause(keep, ratio, layers) for layers in (fewer, more) if layers)
    doubt = f"so {other} must not need attention inside the language model; name another selector if it does"
    chosen = f"before the first layer, {doubt if other == selector else changed}"
    return f"Of the visual tokens, {clauses}. All are chosen {chosen}."


def _clause(keep: Sequence[float], ratio: float, layers: Sequence[int]) -> str:
    first, last = layers[0], layers[-1]
    who = f"layer {first} sees" if first == last else f"layers {first}-{last} see"
    own = dict.fromkeys(_percent(keep[layer]) for layer in (first, last))  # one number where both print alike
    return f"{who} {_percent(ratio)} % instead of {' to '.join(own)} %"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g}"
