"""Series: which points share one entry of the legend, and how they are drawn.

Colours are those of Okabe and Ito (2008), which people with any colour vision can tell apart; markers and line styles
differ as well, so that a print in grey still reads.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vispco.frontier import Point, pareto_front

INK = "#1f2430"
"""Colour of text and axes; the report's style sheet swaps it in dark mode."""
COLORS = ("#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")
MARKERS = (("^", 7.2), ("s", 5.6), ("D", 5.4), ("v", 7.2), ("P", 7.0), ("X", 7.0), (">", 7.2))
"""Shape and size in points: pointed shapes look smaller than they are."""


@dataclass(frozen=True)
class Style:
    """How matplotlib draws a series; sizes in points (1/72 inch), a line of "" is none."""

    color: str
    marker: str
    size: float
    line: str = ""
    width: float = 0.0


@dataclass(frozen=True)
class Series:
    """One entry of the legend.

    Attributes
    ----------
    label : str
    style : Style
    main : tuple of Point
        By increasing cost; joined by a staircase where the style has a line.
    dominated : tuple of Point
        Drawn hollow and apart from the staircase; points that coincide with one of ``main`` are not repeated here.
    """

    label: str
    style: Style
    main: tuple[Point, ...]
    dominated: tuple[Point, ...] = ()


LABELS = {"grid": "exhaustive grid", "step": "single-cut grid"}
STYLES = {
    "learned": Style("#0072b2", "o", 6.5, "-", 2.2),
    "grid": Style("#8a9099", "o", 3.2, "-", 1.4),
    "step": Style("#8a9099", "", 0.0, "--", 1.0),
    "unpruned": Style(INK, "*", 13.0),
}
RANKS = {"learned": 0, "grid": 1, "step": 2, "unpruned": 5}
OTHER, CONTROL = 3, 4
CONTROLS = ("random", "uniform_grid", "downsampled")
"""What every search is held against, besides what its selector does by default."""
NO_CONTROLS = "no controls in this comparison"


def is_control(point: Point) -> bool:
    """Whether a point is a control: nobody searched for its schedule."""
    return point.method.startswith("control")


def caution(points: Sequence[Point]) -> str | None:
    """What a plot of these points has to say about controls that are not there; None if all are."""
    names = [point.name for point in points if is_control(point)]
    if not names:
        return f"Caution: {NO_CONTROLS}"
    kinds = {name.partition(" b=")[0] for name in names}
    missing = [control for control in CONTROLS if control not in kinds]
    if not any("default" in kind.split() for kind in kinds):
        missing.append("selector default")
    return f"Caution: missing controls: {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Group:
    """The points of one series, whatever is plotted over what.

    Attributes
    ----------
    label : str
    style : Style
    members : tuple of Point
        In the order given.
    rest : bool
        Whether dominated points are shown too.
    """

    label: str
    style: Style
    members: tuple[Point, ...]
    rest: bool = False


def group_points(points: Sequence[Point]) -> list[Group]:
    """Groups of points in the order of the legend.

    Controls are grouped by what precedes " b=" in their names, all others by method. Of searched methods, which have a
    line, plots show the frontiers; of the learned one the dominated points too, because each answers to a budget.
    """
    groups: dict[tuple[int, str], list[Point]] = defaultdict(list)
    for point in points:
        rank = CONTROL if is_control(point) else RANKS.get(point.method, OTHER)
        groups[rank, point.name.partition(" b=")[0] if is_control(point) else point.method].append(point)
    found = []
    spare = 0  # colours and markers given out to series that have none of their own
    for rank, name in sorted(groups, key=lambda key: key[0]):
        if rank in (OTHER, CONTROL):
            line, width = ("-.", 1.2) if rank == OTHER else ("", 0.0)
            style = Style(COLORS[spare % len(COLORS)], *MARKERS[spare % len(MARKERS)], line, width)
            spare += 1
        else:
            style = STYLES[name]
        label = name if rank == CONTROL else LABELS.get(name, name)
        found.append(Group(label, style, tuple(groups[rank, name]), rest=rank == RANKS["learned"]))
    return found


def group_series(points: Sequence[Point], cost: str = "flops", quality: str = "score") -> list[Series]:
    """Series of a plot in the order of its legend; see :func:`group_points`.

    Parameters
    ----------
    points : sequence of Point
    cost, quality : str
        Keys into every point's ``costs`` and ``quality``.

    Raises
    ------
    DataError
        As :func:`vispco.frontier.pareto_front`, over all points together.
    """

    def place(point: Point) -> tuple[float, float]:
        return point.costs[cost], point.quality[quality]

    pareto_front(points, cost, quality)  # controls alone would pass unchecked below
    found = []
    for group in group_points(points):
        members = sorted(group.members, key=place)
        main = pareto_front(members, cost, quality) if group.style.line else members
        places = {place(point) for point in main}
        dominated = [point for point in members if place(point) not in places] if group.rest else []
        found.append(Series(group.label, group.style, tuple(main), tuple(dominated)))
    return found
