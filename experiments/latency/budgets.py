"""Schedules that cost a given share of the FLOPs."""

from collections.abc import Callable
from dataclasses import dataclass

from vispco.cost import FlopCost
from vispco.errors import BudgetError

Keep = tuple[float, ...]


def cut_at(layer: int) -> Callable[[int, float], Keep]:
    """One cut, from layers and the ratio that is kept."""
    return lambda layers, ratio: (1.0,) * layer + (ratio,) * (layers - layer)


def three_cuts(layers: int, ratio: float) -> Keep:
    """After one, three and five eighths of the layers; each cut keeps the same ratio of what is there."""
    return tuple(ratio ** min(3, (8 * layer // layers + 1) // 2) for layer in range(layers))


@dataclass(frozen=True)
class Plan:
    """Schedules of one parameter.

    Attributes
    ----------
    keep : callable
        Schedule from the number of layers and a ratio.
    selector : str
    rows : int
        Attention rows that the selector reads at a cut.
    """

    keep: Callable[[int, float], Keep]
    selector: str
    rows: int

    def at(self, budget: float, cost: FlopCost) -> Keep:
        """The largest schedule that costs at most ``budget`` of the FLOPs.

        Raises
        ------
        BudgetError
            If none does.
        """
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            if cost.exact(self.keep(cost.shape.layers, middle)) <= budget:
                low = middle
            else:
                high = middle
        keep = self.keep(cost.shape.layers, low)
        if cost.exact(keep) > budget:
            least = cost.exact(keep)
            raise BudgetError(f"budget {budget:g} of flops cannot be reached: these schedules cost {least:.3f} or more")
        return keep


PLANS = {
    "before the decoder": Plan(cut_at(0), "uniform_grid", 0),
    "one cut at layer 2": Plan(cut_at(2), "fastv", 1),
    "three cuts": Plan(three_cuts, "fastv", 1),
}
"""Plans by name. The first is where methods cut that choose by the vision tower."""
