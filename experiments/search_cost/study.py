"""Searches at equal model FLOPs against the exhaustive truth, on the embedded model.

    python -m experiments.search_cost.study --seed 0 --out experiments/search_cost/results/seed0.json

Every seed has samples of its own, to search with (validation split) and to report on (test split), which all methods
share. The learned search is charged what it spends; random search, TPE and NSGA-II get as many samples per trial as
that pays for, and the sensitivity program as many samples for its cuts. The exhaustive grid has all samples and as many
forwards as it needs. Schedules are chosen by the methods' own rules on the validation split, then measured together.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.search_cost.measuring import Chosen, Schedule, area
from vispco.cost import FlopCost
from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import Evaluator, Ledger
from vispco.kernels import make_kernel
from vispco.search import (
    CutProgram,
    LearnedSearch,
    LearnedSettings,
    Measured,
    SampledSearch,
    Space,
    fit_to_budget,
    monotone_schedules,
)

BUDGETS = (0.22, 0.26, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 0.9)
LADDER = (1.0, 0.5, 0.25, 0.1, 0.03)
CUTS = (0.7, 0.5, 0.35, 0.25, 0.17, 0.12, 0.085, 0.06, 0.04, 0.03, 0.02, 0.01)
"""Ladder of the sensitivity program, as in conf/search/sensitivity.yaml."""
STEPS = 3

Search = Callable[[Evaluator, FlopCost, int], Chosen]
"""A search on an evaluator's samples under a cost, from a seed."""


def best_within(schedules: Sequence[Schedule], kls: Sequence[float], costs: Sequence[float]) -> Chosen:
    """The schedule with the least KL within every budget that one is in."""
    chosen = {}
    for budget in BUDGETS:
        inside = [index for index, cost in enumerate(costs) if cost <= budget]
        if inside:
            chosen[budget] = schedules[min(inside, key=lambda index: kls[index])]
    return chosen


def search_grid(evaluator: Evaluator, cost: FlopCost, seed: int) -> Chosen:
    schedules = monotone_schedules(evaluator.replay.layers, LADDER)
    kls = [float(quality.kl.mean()) for quality in evaluator.evaluate(schedules)]
    return best_within(schedules, kls, [cost.exact(schedule) for schedule in schedules])


def search_learned(evaluator: Evaluator, cost: FlopCost, seed: int, **options) -> Chosen:
    kernel = make_kernel("multistep", evaluator.replay.layers, STEPS)
    settings = LearnedSettings(**options)
    found = LearnedSearch(evaluator, cost, kernel, BUDGETS, settings, seed=seed).run()
    return {result.budget: result.schedule for result in found if result.budget in BUDGETS}


def search_sensitivity(evaluator: Evaluator, cost: FlopCost, seed: int) -> Chosen:
    program = CutProgram(cost, evaluator.replay.layers, CUTS)
    front = program.solve([float(quality.kl.mean()) for quality in evaluator.evaluate(program.cuts)])
    return {budget: front.at(budget).schedule for budget in BUDGETS}


def search_sampled(sampler: str, trials: int) -> Search:
    def search(evaluator: Evaluator, cost: FlopCost, seed: int) -> Chosen:
        def measure(number, proposal) -> Measured:
            [quality] = evaluator.evaluate([proposal.schedule])
            return Measured(cost.exact(proposal.schedule), float(quality.kl.mean()))

        space = Space(evaluator.replay.layers, STEPS, {evaluator.selector_name: {}})
        told = SampledSearch(sampler, space, BUDGETS, trials=trials, seed=seed).run(measure)
        # Slack is filled after the choice, for nothing: the learned search gets that too.
        chosen = best_within(
            [one.proposal.schedule for one in told], [one.measured.kl for one in told],
            [one.measured.cost for one in told],
        )  # fmt: skip
        return {budget: fit_to_budget(schedule, cost, budget) for budget, schedule in chosen.items()}

    return search


def search_random(trials: int) -> Search:
    """Best of so many random schedules; measured together, so that common beginnings are paid once."""

    def search(evaluator: Evaluator, cost: FlopCost, seed: int) -> Chosen:
        space = Space(evaluator.replay.layers, STEPS, {evaluator.selector_name: {}})
        drawn: list[Schedule] = []

        def draw(number, proposal) -> Measured:
            drawn.append(proposal.schedule)
            return Measured(1.0, 0.0)

        SampledSearch("random", space, BUDGETS, trials=trials, seed=seed).run(draw)
        kls = [float(quality.kl.mean()) for quality in evaluator.evaluate(drawn)]
        chosen = best_within(drawn, kls, [cost.exact(schedule) for schedule in drawn])
        return {budget: fit_to_budget(schedule, cost, budget) for budget, schedule in chosen.items()}

    return search


RIVALS: dict[str, Search] = {
    "random 40": search_random(40),
    "random 80": search_random(80),
    "random 160": search_random(160),
    "tpe 160": search_sampled("tpe", 160),
    "nsga2 160": search_sampled("nsga2", 160),
    "sensitivity": search_sensitivity,
}
TRIAL = 8
"""Samples of the trial run that tells how many a rival can pay for."""


def run_equally(
    evaluator: Evaluator, cost: FlopCost, search: Search, seed: int, forwards: float
) -> tuple[Chosen, float, int]:
    """A rival with as many samples as ``forwards`` pay for; what it spent, and on how many."""
    trial = evaluator.head(TRIAL, Ledger())
    search(trial, cost, seed)
    samples = min(int(forwards / (trial.ledger.forwards / TRIAL)), len(evaluator.samples))
    own = evaluator.head(samples, Ledger())
    return search(own, cost, seed), own.ledger.forwards, samples


def run_seed(seed: int, search_samples: int, report_samples: int, learned_samples: int, batch_size: int, **options):
    model = load_checkpoint("micro-llava")
    evaluator = Evaluator(
        *model, load_samples("shapes", "validation", search_samples, seed=seed), batch_size=batch_size
    )
    cost = evaluator.cost()
    found: dict[str, Chosen] = {}
    spent: dict[str, dict[str, float]] = {}

    def add(name: str, chosen: Chosen, forwards: float, samples: int, began: float) -> None:
        found[name] = chosen
        spent[name] = {"forwards": forwards, "samples": samples, "seconds": round(time.time() - began, 1)}
        print(seed, name, spent[name], flush=True)

    began, own = time.time(), evaluator.head(learned_samples, Ledger())
    add("learned", search_learned(own, cost, seed, **options), own.ledger.forwards, learned_samples, began)
    forwards = own.ledger.forwards
    for name, search in RIVALS.items():
        began = time.time()
        add(name, *run_equally(evaluator, cost, search, seed, forwards), began)
    began, own = time.time(), evaluator.head(search_samples, Ledger())
    add("grid", search_grid(own, cost, seed), own.ledger.forwards, search_samples, began)
    report = Evaluator(*model, load_samples("shapes", "test", report_samples, seed=seed), batch_size=batch_size)
    report_cost, layers = report.cost(), evaluator.replay.layers
    schedules = sorted({(1.0,) * layers, *(keep for chosen in found.values() for keep in chosen.values())})
    quality = dict(zip(schedules, report.evaluate(schedules), strict=True))
    unpruned = float(quality[(1.0,) * layers].score.mean())
    records = {}
    for name, chosen in found.items():
        points = {
            f"{budget:g}": {
                "keep": keep,
                "search cost": cost.exact(keep),
                "cost": report_cost.exact(keep),
                "score": float(quality[keep].score.mean()),
                "kl": float(quality[keep].kl.mean()),
                "regret": float(np.mean(quality[found["grid"][budget]].score - quality[keep].score)),
            }
            for budget, keep in chosen.items()
        }
        pairs = [(point["cost"], point["score"]) for point in points.values()]
        pairs.append((1.0, unpruned))
        records[name] = {**spent[name], "points": points, "hypervolume": area(pairs)}
    return {"seed": seed, "unpruned": unpruned, "methods": records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--search-samples", type=int, default=1000)
    parser.add_argument("--report-samples", type=int, default=800)
    parser.add_argument("--learned-samples", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=125)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = run_seed(
        options.seed, options.search_samples, options.report_samples, options.learned_samples, options.batch_size
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
