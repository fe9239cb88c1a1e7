"""The parts of the augmented Lagrangian, one at a time, on a schedule problem without a model.

OMP_NUM_THREADS=1 python -m experiments.lagrangian.study   # seconds
python -m experiments.lagrangian.study --tables            # README tables and plot again, from results.json
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import vispco
from experiments.lagrangian import toy
from experiments.lagrangian.plot import draw
from experiments.lagrangian.tables import tables
from experiments.selectors import page
from vispco.frontier.intervals import bootstrap_mean
from vispco.search.lagrangian import AugmentedLagrangian

HERE = Path(__file__).parent
SEEDS = 20
SCENARIOS = {
    "short": toy.Scenario(steps=15, falling=0.0),
    "falling": toy.Scenario(steps=150, falling=0.6),
}
GROWTH = {"growth": 1.5, "tolerance": 0.9, "cap": 1e3}
ARMS: dict[str, tuple[dict[str, float], str]] = {
    "30, damping 1": ({"penalty": 30.0, "damping": 1.0}, "exact"),
    "30, damping 0.5": ({"penalty": 30.0, "damping": 0.5}, "exact"),
    "30, damping 0.2": ({"penalty": 30.0, "damping": 0.2}, "exact"),
    "30 growing, damping 0.5": ({"penalty": 30.0, "damping": 0.5, **GROWTH}, "exact"),
    "30, plain": ({"penalty": 30.0}, "none"),
    "30 growing, plain": ({"penalty": 30.0, **GROWTH}, "none"),
    "300, damping 1": ({"penalty": 300.0, "damping": 1.0}, "exact"),
    "300, damping 0.5": ({"penalty": 300.0, "damping": 0.5}, "exact"),
    "300, damping 0.2": ({"penalty": 300.0, "damping": 0.2}, "exact"),
    "300, damping 0.5, soft": ({"penalty": 300.0, "damping": 0.5}, "soft"),
    "300, damping 0.2, soft": ({"penalty": 300.0, "damping": 0.2}, "soft"),
    "300 growing, damping 0.5": ({"penalty": 300.0, "damping": 0.5, **GROWTH}, "exact"),
    "300 growing, damping 0.5, resolution": (
        {"penalty": 300.0, "damping": 0.5, **GROWTH, "resolution": toy.UNIT},
        "exact",
    ),
    "300, plain": ({"penalty": 300.0}, "none"),
}
"""Options of the Lagrangian (without growth unless said), and the violation that its dual step uses."""
REFERENCE = "30 growing, damping 0.5"
"""Losses are given as differences from this one."""
SHOWN = 4
"""Budget 0.5 of seed 0, in the plot."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json, results.png and README.md")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    path = options.out / "results.json"
    if not options.tables:
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(page.dump(study(options.seeds), depth=4))
    results = json.loads(path.read_text())
    draw(results, options.out / "results.png")
    if (options.out / "README.md").exists():
        page.rewrite(options.out / "README.md", tables(results))


def study(seeds: int) -> dict[str, Any]:
    config = {
        "seeds": seeds,
        "budgets": list(toy.BUDGETS),
        "versions": {"vispco": vispco.__version__, "torch": torch.__version__},
    }
    results: dict[str, Any] = {"config": config, "scenarios": {}, "traces": {}}
    for scenario, settings in SCENARIOS.items():
        results["scenarios"][scenario], results["traces"][scenario] = {}, {}
        traces = {}
        for arm, (options, step) in ARMS.items():
            merged = {"growth": 1.0, **options}
            traces[arm] = toy.run(settings, partial(AugmentedLagrangian, **merged), seeds=seeds, step=step)
        for arm, trace in traces.items():
            results["scenarios"][scenario][arm] = summary(trace, traces[REFERENCE], seeds)
            shown = trace.excess[:, SHOWN] + trace.target[:, SHOWN]
            results["traces"][scenario][arm] = [round(value, 4) for value in shown.tolist()]
    return results


def summary(trace: toy.Trace, reference: toy.Trace, seeds: int) -> dict[str, list[float]]:
    """Means over budgets, then over seeds with 95 % intervals; all of the end of the run.

    Swings are the ranges over the last third; the loss is paired with the reference's.
    """

    def last(values: torch.Tensor) -> torch.Tensor:
        third = values[-max(2, len(values) // 3) :]
        return third.max(dim=0).values - third.min(dim=0).values

    end = trace.excess[-1]
    numbers = {
        "violated": (end > 1e-9).double(),
        "violation": end.clamp(min=0.0),
        "slack": (-end).clamp(min=0.0),
        "distance": end.abs(),
        "loss": trace.loss - reference.loss,
        "cost swing": last(trace.excess),
        "multiplier swing": last(trace.multiplier),
        "multiplier": trace.multiplier[-1],
        "rho": trace.rho[-1],
    }
    return {
        name: [round(float(number), 6) for number in bootstrap_mean(values.view(seeds, -1).mean(dim=1).numpy())]
        for name, values in numbers.items()
    }


if __name__ == "__main__":
    main()
