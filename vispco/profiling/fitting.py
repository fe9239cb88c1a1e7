"""From measured stages to the curves and coefficients of a latency table."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import isotonic_regression

from vispco.cost.table import Curve, LatencyTable, LayerTimes, Protocol, SelectorTimes, TableKey
from vispco.engine.families import Family
from vispco.engine.signals import OBSERVED
from vispco.engine.tower import LAYOUT, TOWER
from vispco.profiling.plan import Plan, Run
from vispco.profiling.stages import Stages
from vispco.selectors import make_selector

Points = Mapping[float, Sequence[float]]
"""Seconds by number of tokens."""

Observations = list[tuple[tuple[float, ...], float]]
"""Features of something measured, and its seconds."""

Times = Mapping[Run, Sequence[Sequence[Stages]]]
"""Passes of every call of every run."""


def fit_curve(points: Points, low: float | None = None, high: float | None = None) -> Curve:
    """Medians of the points, made monotone, with straight lines between them.

    Parameters
    ----------
    points : mapping
        Seconds by number of tokens; a number counts as often as it was measured.
    low, high : float or None
        Where the curve has to begin and end. It is flat below the first point, and beyond the last one time is
        proportional to tokens.
    """
    at = sorted(points)
    medians, weights = [median(points[tokens]) for tokens in at], [float(len(points[tokens])) for tokens in at]
    seconds = isotonic_regression(medians, sample_weight=weights).tolist()
    if low is not None and low < at[0]:
        at, seconds = [low, *at], [seconds[0], *seconds]
    if high is not None and high > at[-1]:
        at, seconds = [*at, high], [*seconds, seconds[-1] * high / at[-1]]
    return Curve(tokens=tuple(map(float, at)), seconds=tuple(seconds))


def reach_down(whole: Curve, pruned: Curve) -> Curve:
    """``whole`` with shorter prompts than were measured, as smaller pictures give: ``pruned`` times their ratio.

    Parameters
    ----------
    whole, pruned : Curve
        The second one reaches to the beginning of the first.
    """
    start = torch.tensor([whole.tokens[0]], dtype=torch.float64)
    factor = whole.seconds[0] / float(pruned(start))
    below = [
        (tokens, min(factor * seconds, whole.seconds[0]))
        for tokens, seconds in zip(pruned.tokens, pruned.seconds, strict=True)
        if tokens < whole.tokens[0]
    ]
    tokens, seconds = zip(*below, *zip(whole.tokens, whole.seconds, strict=True), strict=True)
    return Curve(tokens=tokens, seconds=seconds)


def not_negative(observations: Observations, sweeps: int = 2000) -> tuple[float, ...]:
    """Least squares with coefficients of at least 0, by coordinate descent.

    Parameters
    ----------
    observations : list of (tuple of float, length features; float)
        Features, and the number to be explained by them.
    sweeps : int
        Times that every coefficient is set to its best value, given the others.

    Returns
    -------
    tuple of float, length features
    """
    matrix = np.array([features for features, _ in observations], dtype=np.float64)
    scale = np.abs(matrix).max(axis=0)
    scale[scale == 0] = 1.0
    matrix /= scale
    gram, target = matrix.T @ matrix, matrix.T @ np.array([value for _, value in observations], dtype=np.float64)
    found = np.zeros(len(gram))
    for _ in range(sweeps):
        for one in range(len(gram)):
            if gram[one, one] > 0:
                found[one] = max(0.0, found[one] + (target[one] - gram[one] @ found) / gram[one, one])
    return tuple(float(value) for value in found / scale)


def fit_table(
    family: Family,
    plan: Plan,
    times: Times,
    selectors: Mapping[str, Mapping[str, Any]],
    key: TableKey,
    protocol: Protocol,
) -> LatencyTable:
    """The latency table that a plan's times give.

    Parameters
    ----------
    family : Family
    plan : Plan
    times : mapping
        Of every run of the plan.
    selectors : mapping of str to mapping
        Parameters of every selector in the plan.
    key : TableKey
    protocol : Protocol
    """
    fit = _Fit(family, plan, times)
    return LatencyTable(
        key=key,
        kinds=fit.kinds,
        layers=fit.kind_of,
        outside=fit_curve(fit.outside),
        decode_outside=fit.decode_outside,
        hook=fit.hook,
        selectors={name: fit.selector(name, dict(params)) for name, params in selectors.items()},
        protocol=protocol,
    )


class _Fit:
    """All that is common to the layers and the selectors."""

    def __init__(self, family: Family, plan: Plan, times: Times):
        self.plan, self.times = plan, times
        self.windows = list(dict.fromkeys(family.windows))
        self.kind_of = tuple(self.windows.index(window) for window in family.windows)
        self.stock = {run: calls for run, calls in times.items() if not run.selector}
        self.pruned = {run: calls for run, calls in times.items() if run.selector}
        self.stock_entry = median(
            entry for calls in self.stock.values() for passes in calls for entry in passes[0].entries
        )
        # Before a layer there is little, but where tokens are dropped and masks are gathered: the price of the cut.
        self.touched = {run: set().union(*run.touched(self.kind_of).values()) for run in self.pruned}
        entries = {
            run: [
                passes[0].entries[layer]
                for passes in calls
                for layer in range(run.cuts[0], plan.layers)
                if layer not in self.touched[run]
            ]
            for run, calls in self.pruned.items()
        }
        usual = [entry for some in entries.values() for entry in some] or [self.stock_entry]
        self.entry = {run: median(some or usual) for run, some in entries.items()}
        before_cuts = [
            passes[0].entries[layer]
            for run, calls in self.pruned.items()
            for passes in calls
            for layer in range(1, run.cuts[0])
        ]
        self.hook = max(0.0, median(before_cuts) - self.stock_entry) if before_cuts else 0.0
        self.outside: Points = self._outside()
        self.kinds = tuple(self._kind(index, window) for index, window in enumerate(self.windows))
        self.decode_outside = median(
            one.before for calls in self.stock.values() for passes in calls for one in passes[1:]
        )

    def _outside(self) -> Points:
        points: defaultdict[float, list[float]] = defaultdict(list)
        for run, calls in self.stock.items():
            points[run.prompt.total] += [passes[0].before + passes[0].after for passes in calls if len(passes) == 1]
        return {tokens: seconds for tokens, seconds in points.items() if seconds}

    def _kind(self, index: int, window: int | None) -> LayerTimes:
        mine = [layer for layer, kind in enumerate(self.kind_of) if kind == index]
        curves: dict[str, defaultdict[float, list[float]]] = {
            name: defaultdict(list) for name in ("whole", "pruned", "decode_whole", "decode_pruned")
        }
        for run, calls in self.times.items():
            cut = run.cuts[0] if run.cuts else self.plan.layers
            for layer in mine:
                watched = run.selector and layer + 1 in run.cuts and observes(run.selector)
                name = "pruned" if layer >= cut else "whole"
                for first, *rest in calls:
                    if name == "pruned" and not watched:
                        entry = self.entry[run] if layer in self.touched[run] else first.entries[layer]
                        curves[name][run.tokens[layer]].append(entry + first.layers[layer])
                    if not run.selector:
                        curves[name][run.tokens[layer]].append(first.entries[layer] + first.layers[layer])
                    if name == "pruned" or not run.selector:
                        for keys, one in enumerate(rest, run.tokens[layer] + 1):
                            curves[f"decode_{name}"][keys].append(one.entries[layer] + one.layers[layer])
        plan = self.plan
        few, many, new = plan.fewest.text, plan.largest.total, plan.new_tokens
        pruned = fit_curve(curves["pruned"], few, many)
        decode_pruned = fit_curve(curves["decode_pruned"], few + 1, many + new)
        return LayerTimes(
            window=window,
            whole=reach_down(fit_curve(curves["whole"]), pruned),
            pruned=pruned,
            decode_whole=reach_down(
                fit_curve(curves["decode_whole"], plan.smallest.total + 1, many + new), decode_pruned
            ),
            decode_pruned=decode_pruned,
        )

    def selector(self, name: str, params: dict[str, Any]) -> SelectorTimes:
        """What choosing and dropping takes beyond the layers themselves."""
        # Whatever is chosen later, selectors with the same early needs do the same before the first layer.
        once: Observations = [
            ((1.0, float(run.prompt.total)), self._once(run, calls))
            for run, calls in self.pruned.items()
            if early_needs(run.selector) == early_needs(name) and not run.steps
        ]
        entries: Observations = []
        watching: Observations = []
        for run, calls in self.pruned.items():
            if run.selector != name or run.steps:
                continue
            for cut, layers in run.touched(self.kind_of).items():
                n, k = float(run.before(cut)), float(run.counts[cut])
                spent = median(sum(passes[0].entries[layer] - self.entry[run] for layer in layers) for passes in calls)
                entries.append(((1.0, n, k, n * k, n * n), spent))
                if observes(name):
                    watching.append(((1.0, n, 0.0, 0.0, n * n), self._observing(run, calls, cut - 1)))
        # Two fits: time before a layer is seen alone, but time inside one is a difference of large numbers, and its
        # noise, which may be below zero, must not eat up the other.
        coefficients = not_negative(entries)
        if watching:
            both = zip(coefficients, not_negative(watching), strict=True)
            coefficients = tuple(one + other for one, other in both)
        return SelectorTimes(params=params, once=not_negative(once), cut=coefficients)

    def _once(self, run: Run, calls: Sequence[Sequence[Stages]]) -> float:
        """What a pruned prefill takes beyond an unpruned one outside the layers, and before the first one."""
        spent = median(passes[0].before + passes[0].after for passes in calls) - median(self.outside[run.prompt.total])
        if run.cuts[0] > 0:
            spent += median(passes[0].entries[0] for passes in calls) - self.stock_entry - self.hook
        return spent

    def _observing(self, run: Run, calls: Sequence[Sequence[Stages]], layer: int) -> float:
        """What the layer before a cut takes beyond its curve, for the signals that come out of its attention."""
        kind, before_all_cuts = self.kinds[self.kind_of[layer]], layer < run.cuts[0]
        curve, entry = (kind.whole, self.stock_entry) if before_all_cuts else (kind.pruned, self.entry[run])
        usual = curve(torch.tensor([float(run.tokens[layer])], dtype=torch.float64))
        return median(passes[0].layers[layer] for passes in calls) - (float(usual) - entry)


def early_needs(selector: str) -> frozenset[str]:
    """What a selector wants to know of the images and of the decoder's input."""
    return frozenset(make_selector(selector).needs & (TOWER | LAYOUT | {"embeddings"}))


def observes(selector: str) -> bool:
    """Whether a selector reads the attention of the layer before a cut."""
    return bool(make_selector(selector).needs & set(OBSERVED))
