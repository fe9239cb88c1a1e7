"""Sets of schedules that are evaluated whole: the exhaustive truth and the best single cuts."""

from collections.abc import Callable, Sequence

from vispco.search.space import Schedule, monotone_schedules, step_schedules

GRIDS: dict[str, Callable[[int, Sequence[float]], list[Schedule]]] = {
    "grid": monotone_schedules,
    "step": step_schedules,
}
"""Schedules by method name, from the number of layers and a ladder of ratios."""
