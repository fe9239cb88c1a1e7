"""Gradients of relaxed schedules against finite differences with tokens dropped.

OMP_NUM_THREADS=1 python -m experiments.gradients.study
OMP_NUM_THREADS=1 python -m experiments.gradients.study --tables
"""

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from experiments.gradients.directions import KINDS, Problem, Slope, embedded, points, random_family
from experiments.gradients.estimators import ESTIMATORS, Estimator
from experiments.gradients.plot import draw
from vispco.testing import MODELS

FOLDER = Path(__file__).parent
GROUPS = {"layers": KINDS[:3], "kernel": KINDS[3:]}
EMBEDDED = "micro-llava (embedded)"
FAMILIES = sorted(set(MODELS) - {"paligemma2"})
"""All but the one whose attention logits have a bound: keys cannot be weighted there."""


def study(problem: Problem, number: int, seed: int, estimators: Sequence[Estimator] = ESTIMATORS) -> dict[str, Any]:
    """Differences and estimates of one model.

    Returns
    -------
    dict
        ``points``: of every schedule its ratios, and of every slope the kind, the difference, the differences of the
        two halves of the samples, its standard error over samples, and all estimates.
    """
    started, rows = time.process_time(), []
    for keep, slopes in points(problem, number, seed):
        gradients = [estimator.gradient(problem, keep) for estimator in estimators]
        rows.append({"keep": keep.round(4).tolist(), "slopes": [_row(slope, gradients) for slope in slopes]})
    return {"points": rows, "CPU seconds": round(time.process_time() - started)}


def _row(slope: Slope, gradients: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    values = slope.samples
    return {
        "kind": slope.kind,
        "difference": _short(values.mean()),
        "halves": [_short(values[half::2].mean()) for half in (0, 1)],
        "error": _short(values.std(ddof=1) / len(values) ** 0.5),
        "estimates": [_short(gradient @ slope.direction) for gradient in gradients],
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def agreement(rows: Sequence[dict[str, Any]], kinds: Sequence[str], at: int | None) -> dict[str, list[float]]:
    """Sign agreement, rank correlation and scale of an estimator, each with an interval over schedules.

    Signs and scale, the median of |estimate| / |difference|, are of slopes whose difference is beyond one standard
    error over samples; rank correlation is of all slopes of all schedules. Without a place ``at`` among estimators it
    is one half of the samples against the other: how well the differences repeat.
    """
    parts = [_pairs(row, kinds, at) for row in rows]
    parts = [part for part in parts if len(part)]
    generator = np.random.default_rng(0)
    draws = [_scores(np.concatenate(parts))]
    draws += [
        _scores(np.concatenate([parts[index] for index in generator.integers(0, len(parts), len(parts))]))
        for _ in range(100)
    ]
    table = np.array(draws)
    low, high = np.nanquantile(table[1:], [0.025, 0.975], axis=0)
    names = ("signs", "rank", "scale")
    return {key: [_short(v) for v in (table[0, i], low[i], high[i])] for i, key in enumerate(names)}


def _pairs(row: dict[str, Any], kinds: Sequence[str], at: int | None) -> NDArray[np.float64]:
    """Difference, estimate and whether the difference is beyond noise; shape (slopes, 3)."""
    slopes = [slope for slope in row["slopes"] if slope["kind"] in kinds]
    return np.array(
        [
            (
                slope["halves"][0] if at is None else slope["difference"],
                slope["halves"][1] if at is None else slope["estimates"][at],
                abs(slope["difference"]) > slope["error"],
            )
            for slope in slopes
        ]
    ).reshape(-1, 3)


def _scores(pairs: NDArray[np.float64]) -> tuple[float, float, float]:
    real, guess, clear = pairs.T
    sure = clear > 0
    signs = float((np.sign(real) == np.sign(guess))[sure].mean()) if sure.any() else np.nan
    both = rankdata(pairs[:, :2], axis=0)
    rank = float(np.corrcoef(both.T)[0, 1]) if (np.ptp(both, axis=0) > 0).all() else np.nan
    scale = float(np.median(np.abs(guess[sure]) / np.abs(real[sure]))) if sure.any() else np.nan
    return signs, rank, scale


def tables(results: dict[str, Any]) -> str:
    """The embedded model by kind of direction, and all random families together and one by one."""
    names = list(enumerate(results["estimators"]))
    every_name = [(None, "*one half of the samples by the other*"), *names]
    embedded_rows = results["models"][EMBEDDED]["points"]
    families = {name: part["points"] for name, part in results["models"].items() if name != EMBEDDED}
    text = []
    every = [row for rows in families.values() for row in rows]
    for title, rows in ((EMBEDDED, embedded_rows), (f"{len(families)} random families together", every)):
        for group, kinds in GROUPS.items():
            text += [f"**{title}, directions of {group}**, {_clear(rows, kinds)}", ""]
            text += ["| estimator | signs | rank correlation | scale |", "| --- | --- | --- | --- |"]
            for at, name in every_name:
                found = agreement(rows, kinds, at)
                cells = " | ".join("{:.2f} ({:.2f}..{:.2f})".format(*found[key]) for key in ("signs", "rank", "scale"))
                text.append(f"| {name} | {cells} |")
            text.append("")
    text += ["**Rank correlation by model, directions of the kernel**", ""]
    chosen = [(at, name) for at, name in every_name if at is None or not name.endswith(("0.3", "0.01", "1.58"))]
    text += ["| model | " + " | ".join(name for _, name in chosen) + " |", "| --- |" + " ---: |" * len(chosen)]
    for family, rows in {EMBEDDED: embedded_rows, **families}.items():
        ranks = [agreement(rows, GROUPS["kernel"], at)["rank"][0] for at, _ in chosen]
        text.append(f"| {family} | " + " | ".join(f"{rank:.2f}" for rank in ranks) + " |")
    return "\n".join(text) + "\n"


def _clear(rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> str:
    slopes = [slope for row in rows for slope in row["slopes"] if slope["kind"] in kinds]
    clear = [sum(abs(slope["difference"]) > far * slope["error"] for slope in slopes) for far in (1, 2)]
    size = np.median([abs(slope["difference"]) for slope in slopes])
    beyond = f"{clear[0]} of them beyond one standard error, {clear[1]} beyond two"
    return f"{len(slopes)} slopes, {beyond}, median size {size:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=10, help="of each kind on the embedded model")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--family-schedules", type=int, default=12)
    parser.add_argument("--family-samples", type=int, default=8)
    parser.add_argument("--models", nargs="*", default=[EMBEDDED, *FAMILIES], help="others keep their results")
    parser.add_argument("--tables", action="store_true", help="tables and figure again, from the results")
    parser.add_argument("--out", type=Path, default=FOLDER / "results.json")
    options = parser.parse_args(arguments)
    for name in [] if options.tables else options.models:
        measured: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"models": {}}
        make, number = partial(random_family, name, options.family_samples), options.family_schedules
        if name == EMBEDDED:
            make, number = partial(embedded, options.samples), options.schedules
        problem = make()
        found = {"samples": len(problem.captured.hidden), "seed": 0, **study(problem, number, seed=0)}
        models = measured["models"] | {name: found}
        measured = {"estimators": [estimator.name for estimator in ESTIMATORS], "models": models}
        options.out.write_text(json.dumps(measured) + "\n")
        print(name, found["CPU seconds"], flush=True)
    results = json.loads(options.out.read_text())
    curves = {group: _curves(results, kinds) for group, kinds in GROUPS.items()}
    draw(curves, options.out.with_suffix(".png"))
    print(tables(results))


def _curves(results: dict[str, Any], kinds: Sequence[str]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Agreement on the embedded model and on all random families, by estimator; "" is half against half."""
    embedded_rows = results["models"][EMBEDDED]["points"]
    others = [row for name, part in results["models"].items() if name != EMBEDDED for row in part["points"]]
    every = [("", None), *((name, at) for at, name in enumerate(results["estimators"]))]
    parts = {"embedded": embedded_rows, "random": others}
    return {title: {name: agreement(rows, kinds, at) for name, at in every} for title, rows in parts.items() if rows}


if __name__ == "__main__":
    main()
