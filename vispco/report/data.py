"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vispco.frontier import Interval, Point
from vispco.report.overlays import Overlay
from vispco.report.slices import Scores


@dataclass(frozen=True)
class BudgetRow:
    """What was learned for one budget.

    Attributes
    ----------
    budget : float
        Allowed cost as a fraction of the unpruned prefill.
    learned : Point
    grid : Point or None
        What the exhaustive grid chose within the same budget, on the same search split, if there is one.
    regret : Interval or None
        Accuracy of ``grid`` minus accuracy of ``learned``, as fractions, paired by sample, at level 0.95; below 0 the
        learned one wins.
    """

    budget: float
    learned: Point
    grid: Point | None = None
    regret: Interval | None = None


@dataclass(frozen=True)
class IndicatorRow:
    """One number that compares frontiers, e.g. hypervolume, IGD+, epsilon or the model FLOPs spent on the search.

    Attributes
    ----------
    name, note : str
        What it is called; in which direction it is better, or what its unit is.
    learned : float
    exhaustive : float or None
        Of the exhaustive grid, where it has one; the report adds the ratio learned / exhaustive.
    """

    name: str
    note: str
    learned: float
    exhaustive: float | None = None


@dataclass(frozen=True)
class Convergence:
    """How a search went.

    Attributes
    ----------
    axis : str
        What is counted, e.g. "gradient step".
    curves : mapping of str to sequence of float
        By what they are called; one value per count.
    """

    axis: str
    curves: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class TextTable:
    """A table as it is printed: title, head and rows of equal length."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes
    ----------
    title : str
    facts : sequence of (key, value)
        What was run on what: model, data, selector, seed, versions.
    points : sequence of Point
        All points of the comparison; one of method "unpruned" gives the slices their baseline.
    cost : str
        What budgets limit.
    budgets : sequence of BudgetRow
    indicators : sequence of IndicatorRow
    overlays : sequence of Overlay
        A few; they make up most of the file.
    overlaid : str
        Name of the point whose tokens they show.
    scores : Scores or None
        Of single samples; intervals come from them.
    convergence : Convergence or None
    runs : sequence of str
        Run of every point where there are several, each of which is drawn apart.
    tables : sequence of TextTable
        More of them.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    points: Sequence[Point]
    cost: str = "flops"
    budgets: Sequence[BudgetRow] = ()
    indicators: Sequence[IndicatorRow] = ()
    overlays: Sequence[Overlay] = ()
    overlaid: str = ""
    scores: Scores | None = None
    convergence: Convergence | None = None
    runs: Sequence[str] = ()
    tables: Sequence[TextTable] = ()

    @property
    def unpruned(self) -> Point | None:
        """The point of the unpruned model, the first of several."""
        return next((point for point in self.points if point.method == "unpruned"), None)
