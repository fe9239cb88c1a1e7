"""Searches under a budget of time and under one of FLOPs, both judged by measured time; embedded model, batch of 64.

    OMP_NUM_THREADS=1 python -m experiments.latency.search --seed 0 --out experiments/latency/results/search_seed0.json

Every seed measures a table of its own and has samples of its own: 200 to search with (validation split), others to
report on (test split). Both searches have the same kernel, settings, samples and number of budgets. Every schedule is
then timed with tokens really dropped, in interleaved pairs with the stock model, on a batch of test prompts as they
come, padded.
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vispco import ModelCard, PruningConfig, prune
from vispco.cost import Cost, LatencyTable
from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import Evaluator, Ledger
from vispco.kernels import make_kernel
from vispco.profiling import time_pairs
from vispco.profiling.calibration import calibrate_for, inputs_of
from vispco.search import LearnedSearch, LearnedSettings

SELECTOR = "fastv"
BATCH = 64
SEARCHED = 200
TIMES = (0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)
"""Budgets of time."""
FLOPS = (0.25, 0.3, 0.36, 0.43, 0.5, 0.62, 0.75, 0.88)
"""As many budgets of FLOPs, over about the same times."""
STEPS = 3

Schedule = tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--reported", type=int, default=800, help="samples of the test split")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    result = study(options.seed, options.reported, options.pairs, options.batch)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def study(
    seed: int, reported: int, pairs: int, batch: int, times: Sequence[float] = TIMES, flops: Sequence[float] = FLOPS
) -> dict[str, Any]:
    """Both searches of one seed, and what their schedules take and score."""
    model, processor = load_checkpoint("micro-llava", "float32", "sdpa")
    samples = {
        split: load_samples("shapes", split, number, seed=100 + seed)
        for split, number in (("validation", SEARCHED), ("test", reported))
    }
    everything = [*samples["validation"], *samples["test"]]
    table = calibrate_for(model, processor, everything, {SELECTOR: {}}, batch=batch, clock="cpu", seconds=90.0)
    evaluator = Evaluator(model, processor, samples["validation"], SELECTOR, table=table)
    report = Evaluator(model, processor, samples["test"], SELECTOR, table=table)
    inputs = inputs_of(model, processor, samples["test"][:batch])
    searches = {
        cost: search(evaluator, cost, budgets, seed) for cost, budgets in (("latency", times), ("flops", flops))
    }
    schedules = sorted({schedule for found in searches.values() for schedule in found.values()})
    scores = [float(quality.score.mean()) for quality in report.evaluate(schedules)]
    costs = report.costs()
    rows = {
        schedule: {
            "keep": schedule,
            "score": score,
            "costs": {name: cost.exact(schedule) for name, cost in costs.items()},
            "measured": measured(model, schedule, inputs, pairs),
        }
        for schedule, score in zip(schedules, scores, strict=True)
    }
    [unpruned] = report.evaluate([(1.0,) * report.replay.layers])
    return {
        "seed": seed,
        "batch": batch,
        "pairs": pairs,
        "unpruned score": float(unpruned.score.mean()),
        "reachable": costs["latency"].reachable((1.0, *(1e-6,) * (report.replay.layers - 1))),
        "stock against itself": measured(model, None, inputs, pairs),
        "table": described(table),
        "searches": {
            name: [{"budget": budget, **rows[schedule]} for budget, schedule in found.items()]
            for name, found in searches.items()
        },
    }


def search(evaluator: Evaluator, name: str, budgets: Sequence[float], seed: int) -> dict[float, Schedule]:
    """The learned search under one cost, with the program's settings."""
    own = evaluator.head(len(evaluator.samples), Ledger())
    cost: Cost = own.cost(name)
    kernel = make_kernel("multistep", own.replay.layers, STEPS)
    found = LearnedSearch(own, cost, kernel, budgets, LearnedSettings(), seed=seed).run()
    return {result.budget: result.schedule for result in found if result.budget in budgets}


@torch.no_grad()
def measured(model: Any, keep: Schedule | None, inputs: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Time of a prefill over that of the stock model, by clock, with its interval; None is the stock model itself."""
    ours: Any = nullcontext
    if keep is not None:
        card = ModelCard(type=model.config.model_type, layers=len(keep))
        ours = partial(prune, model, PruningConfig(selector=SELECTOR, keep=keep, model=card))
    forward = partial(model, **inputs, use_cache=True, logits_to_keep=1)
    timed = time_pairs(forward, nullcontext, ours, "cpu", pairs, warm_up=2)
    return {clock: [round(value, 4) for value in both.ratio()] for clock, both in timed.items()}


def described(table: LatencyTable) -> dict[str, Any]:
    """Where and how the table was measured."""
    return {"key": table.key.model_dump(mode="json"), "protocol": table.protocol.model_dump(mode="json")}


if __name__ == "__main__":
    main()
