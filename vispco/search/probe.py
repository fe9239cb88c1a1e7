"""What a single cut costs at every layer, and what that says about schedules with several.

A landscape of schedules has walls: at some layers a cut hurts whatever its size, so a gradient that has to pass such a
layer does not arrive. Probing every layer with a few single cuts shows the walls for the price of a few forwards per
sample, and starts can be put behind them.
"""

from collections.abc import Sequence
from itertools import combinations, combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from vispco.evaluation import Evaluator
from vispco.search.space import Schedule, step_schedules


class Damage:
    """Probed KL of single cuts, ``D_l(r)``: interpolated over log r between the probed ratios and 0 at r = 1.

    Several cuts are predicted to cost the sum of their increments::

        damage(r) = sum over cuts l of max(0, D_l(r_l) - D_l(r_{l-1}))

    which is exact for one cut, and ignores that later cuts rank anew.

    Parameters
    ----------
    ratios : sequence of float
        Probed ratios.
    table : array, shape (layers, ratios)
        Mean KL of a cut at each layer to each ratio; row 0 is not used.
    """

    def __init__(self, ratios: Sequence[float], table: NDArray[np.float64]):
        order = np.argsort(ratios)
        self.known = np.log([*np.asarray(ratios, dtype=float)[order], 1.0])
        self.table = np.concatenate([table[:, order], np.zeros((len(table), 1))], axis=1)

    @classmethod
    def probe(cls, evaluator: Evaluator, ratios: Sequence[float], samples: int) -> "Damage":
        """Measure every single cut on the first ``samples`` samples."""
        layers = evaluator.replay.layers
        schedules = step_schedules(layers, ratios)
        table = np.zeros((layers, len(ratios)))
        places = {ratio: index for index, ratio in enumerate(ratios)}
        for schedule, quality in zip(schedules, evaluator.evaluate(schedules, limit=samples), strict=True):
            table[schedule.count(1.0), places[schedule[-1]]] = quality.kl.mean()
        return cls(ratios, table)

    def predict(self, schedules: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predicted KL of schedules, shape (number, layers); result shape (number,)."""
        logs = np.log(np.maximum(schedules, 1e-6))
        total = np.zeros(len(schedules))
        for layer in range(1, schedules.shape[1]):
            here = np.interp(logs[:, layer], self.known, self.table[layer])
            before = np.interp(logs[:, layer - 1], self.known, self.table[layer])
            total += np.where(logs[:, layer] < logs[:, layer - 1], np.maximum(0.0, here - before), 0.0)
        return total


def stepped_schedules(layers: int, steps: int, ladder: Sequence[float]) -> list[tuple[tuple[int, ...], Schedule]]:
    """Every schedule with up to ``steps`` cuts to ratios of ``ladder``, and the layers of its cuts."""
    falling = sorted((ratio for ratio in ladder if ratio < 1.0), reverse=True)
    found = []
    for number in range(1, steps + 1):
        for cuts in combinations(range(1, layers), number):
            for levels in combinations_with_replacement(falling, number):
                if len(set(levels)) == number:
                    ends = (*cuts[1:], layers)
                    parts = [(level,) * (end - cut) for level, cut, end in zip(levels, cuts, ends, strict=True)]
                    found.append((cuts, (1.0,) * cuts[0] + sum(parts, ())))
    return found
