"""Three models, three selectors: learned schedules against fixed recipes, and what becomes of them elsewhere.

    python -m experiments.models.study

For every model and selector, on samples of its own: the learned search; a single cut at layer 2 (FastV's place); cuts
to halves at a quarter, a half and three quarters of the depth (PyramidDrop); all within the same budgets. Learned
schedules are then brought to the other models (by relative depth) and to slices that they were not searched on.
"""

import argparse
import json
from pathlib import Path

import torch

from experiments.search_cost.measuring import Chosen, Schedule, measure_all, open_splits
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator, Ledger
from vispco.kernels import make_kernel
from vispco.search import LearnedSearch, LearnedSettings, fit_to_budget

MODELS = ("micro-llava", "micro-qwen2.5-vl", "micro-gemma3")
SELECTORS = ("fastv", "sparsevlm", "fitprune")
BUDGETS = (0.27, 0.33, 0.4, 0.55, 0.75)
GROUPS = {
    "one thing": ("attribute", "category", "position", "reading"),
    "many things": ("counting", "existence", "relation", "comparison"),
}
OUT = Path(__file__).parent / "results.json"


def learn(evaluator: Evaluator, seed: int, **options) -> Chosen:
    kernel = make_kernel("multistep", evaluator.replay.layers, 3)
    search = LearnedSearch(evaluator, evaluator.cost(), kernel, BUDGETS, LearnedSettings(**options), seed=seed)
    return {one.budget: one.schedule for one in search.run() if one.budget in BUDGETS}


def recipes(layers: int) -> dict[str, Schedule]:
    """Fixed schedules, to be brought onto budgets."""
    pyramid = [float(0.5 ** (4 * layer // layers)) for layer in range(layers)]
    return {"one cut at layer 2": (1.0, 1.0, *[0.5] * (layers - 2)), "halves at quarters of the depth": tuple(pyramid)}


def rescale(schedule: Schedule, layers: int) -> Schedule:
    """The schedule of the layers at the same relative depth in a model of another depth; layer 0 stays whole."""
    places = [min(len(schedule) - 1, round(layer * len(schedule) / layers)) for layer in range(layers)]
    return (1.0, *(schedule[place] for place in places[1:]))


def fitted(schedules: dict[float, Schedule], evaluator: Evaluator) -> Chosen:
    """Schedules on their budgets; a budget that cannot be met by such cuts is left out."""
    cost, chosen = evaluator.cost(), {}
    for budget, schedule in schedules.items():
        try:
            chosen[budget] = fit_to_budget(schedule, cost, budget)
        except ConfigError:
            continue
    return chosen


def compare(seed: int, search_samples: int, report_samples: int, models=MODELS, selectors=SELECTORS, **options):
    """Cells of the table, and every model's FastV schedules brought to the others."""
    cells, learned, reports = {}, {}, {}
    for model in models:
        for selector in selectors:
            evaluator, report = open_splits(model, selector, seed, search_samples, report_samples)
            own = evaluator.head(search_samples, Ledger())
            found = {"learned": learn(own, seed, **options)}
            for name, schedule in recipes(evaluator.replay.layers).items():
                found[name] = fitted(dict.fromkeys(BUDGETS, schedule), evaluator)
            cells[f"{model}, {selector}"] = {"forwards": own.ledger.forwards, **measure_all(report, found)}
            if selector == selectors[0]:
                learned[model], reports[model] = found["learned"], report
            print(model, selector, round(own.ledger.forwards), flush=True)
    moved = {}
    for target, report in reports.items():
        layers = report.replay.layers
        found = {
            source: fitted({budget: rescale(keep, layers) for budget, keep in chosen.items()}, report)
            for source, chosen in learned.items()
        }
        moved[target] = measure_all(report, found)
    return cells, moved


def across_slices(seed: int, search_samples: int, report_samples: int, **options):
    """Schedules learned on half of the slices, measured on that half and on the other."""
    evaluator, report = open_splits("micro-llava", "fastv", seed, search_samples, report_samples)

    def only(whole: Evaluator, slices: tuple[str, ...]) -> Evaluator:
        chosen = [sample for sample in whole.samples if sample.slice in slices]
        return Evaluator(whole.model, whole.processor, chosen, "fastv")

    found = {name: learn(only(evaluator, slices), seed, **options) for name, slices in GROUPS.items()}
    found["all"] = learn(evaluator, seed, **options)
    return {name: measure_all(only(report, slices), found) for name, slices in GROUPS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report-samples", type=int, default=400)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells, moved = compare(options.seed, 160, options.report_samples)
    slices = across_slices(options.seed, 400, 2 * options.report_samples)
    record = {"seed": options.seed, "cells": cells, "across models": moved, "across slices": slices}
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
