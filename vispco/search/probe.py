"""What a single cut costs at every layer, and what that says about schedules with several.

A landscape of schedules has walls: at some layers a cut hurts whatever its size, so a gradient that has to pass such a
layer does not arrive. Probing every layer with a few single cuts shows the walls for the price of a few forwards per
sample, and starts can be put behind them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vispco.evaluation import Evaluator
from vispco.search.space import step_schedules

DEEPEST = 0.1
"""Shares are extrapolated down to this part of the smallest probed one."""


class Damage:
    """Probed loss of single cuts, ``D_l(q)`` for a cut at layer l that leaves a share q of the tokens.

    The loss is :attr:`vispco.evaluation.Quality.lost`, whose mean settles with fewer samples than that of KL.
    Interpolated over log q between the probed shares and 0 at q = 1; below them extrapolated, up to the most that can
    be lost. Several cuts are predicted to cost the sum over what each takes of the tokens still there::

        damage(r) = sum over layers l of D_l(r_l / r_{l-1})

    which is exact for one cut. Increments ``D_l(r_l) - D_l(r_{l-1})`` would forget that a cut hurts whatever its size.

    Parameters
    ----------
    shares : sequence of float
        Probed shares, below 1.
    table : array, shape (layers, shares)
        Mean loss of a cut at each layer to each share; row 0 is not used.
    """

    def __init__(self, shares: Sequence[float], table: NDArray[np.float64]):
        order = np.argsort(shares)
        known = np.log([*np.asarray(shares, dtype=float)[order], 1.0])
        losses = np.concatenate([table[:, order], np.zeros((len(table), 1))], axis=1)
        slope = (losses[:, 1] - losses[:, 0]) / (known[1] - known[0])
        lowest = np.clip(losses[:, 0] + slope * np.log(DEEPEST), losses[:, 0], np.maximum(losses[:, 0], 1.0))
        self.known = np.concatenate([known[:1] + np.log(DEEPEST), known])
        self.table = np.concatenate([lowest[:, None], losses], axis=1)

    @classmethod
    def probe(cls, evaluator: Evaluator, shares: Sequence[float], samples: int) -> "Damage":
        """Measure every single cut on the first ``samples`` samples."""
        layers = evaluator.replay.layers
        schedules = step_schedules(layers, shares)
        table = np.zeros((layers, len(shares)))
        places = {share: index for index, share in enumerate(shares)}
        for schedule, quality in zip(schedules, evaluator.evaluate(schedules, limit=samples), strict=True):
            table[schedule.count(1.0), places[schedule[-1]]] = quality.lost.mean()
        return cls(shares, table)

    def predict(self, schedules: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predicted loss of schedules, shape (number, layers); result shape (number,)."""
        logs = np.log(np.maximum(schedules, 1e-6))
        falls = np.diff(logs, axis=1)
        total = np.zeros(len(schedules))
        for layer in range(1, schedules.shape[1]):
            total += np.interp(falls[:, layer - 1], self.known, self.table[layer])
        return total
