"""Every selector on the embedded model: one cut at layer 2, the same samples for all, by task slice.

OMP_NUM_THREADS=1 python -m experiments.selectors.study
python -m experiments.selectors.study --per-slice 3 --rehearsal   # a minute, to see that it runs
python -m experiments.selectors.study --tables                    # README tables and plot from results.json
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import vispco
from experiments.selectors import page
from experiments.selectors.plot import draw
from experiments.selectors.statistics import (
    PAIRS,
    record,
    rounded,
    same_choices,
    samples_by_slice,
    versus,
)
from experiments.selectors.tables import AGAINST_SMALLER, tables
from experiments.selectors.variants import Entry, entries
from vispco.cost import FlopCost
from vispco.data import load_samples
from vispco.embedded import shapes
from vispco.engine import load_checkpoint
from vispco.errors import VispcoError
from vispco.evaluation import Evaluator, Provenance
from vispco.evaluation.downsampling import downsample
from vispco.frontier import bootstrap_mean, paired_difference

HERE = Path(__file__).parent
CUT = 2
RATIOS = (0.5, 0.25, 0.11)
SIDES = (8, 7, 6, 5, 4, 3)
"""Visual tokens per side of the smaller pictures; 10 at full size."""
DRAWS = 4
"""Permutations of the random selector per seed."""
PER_SLICE = 80


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-slice", type=int, default=PER_SLICE, help="samples per slice and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=(), help="selectors, beside random, fastv and pooling")
    parser.add_argument("--rehearsal", action="store_true", help="mark the results as such")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json, results.png and README.md")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    path = options.out / "results.json"
    if not options.tables:
        options.out.mkdir(parents=True, exist_ok=True)
        found = run(options.per_slice, range(options.seeds), entries(options.only), rehearsal=options.rehearsal)
        path.write_text(page.dump(found))
    results = json.loads(path.read_text())
    draw(results, options.out / "results.png")
    if (options.out / "README.md").exists():
        page.rewrite(options.out / "README.md", tables(results))


def run(per_slice: int, seeds: Sequence[int], wanted: Sequence[Entry], *, rehearsal: bool = False) -> dict[str, Any]:
    """Measure everything; scores and KL are kept per sample until the end, for paired intervals."""
    model, processor = load_checkpoint("micro-llava")
    number = per_slice * len(shapes.SLICES)
    bases = [Evaluator(model, processor, load_samples("shapes", "test", number, seed=seed)) for seed in seeds]
    slices = samples_by_slice([sample for base in bases for sample in base.samples])
    layers = bases[0].shape.layers
    keeps = [(1.0,) * CUT + (ratio,) * (layers - CUT) for ratio in RATIOS]
    whole = [base.evaluate([(1.0,) * layers])[0].score for base in bases]
    origin = Provenance.of(model, processor, seeds[0])
    measured: dict[str, dict[str, np.ndarray]] = {}  # by label: scores and KL, shape (ratios, samples)
    results: dict[str, Any] = {
        "config": {
            "rehearsal": rehearsal,
            "model": {"name": "micro-llava", "fingerprint": origin.model, "prompt": origin.prompt},
            "backend": origin.backend,
            "dtype": origin.dtype,
            "data": {"name": "shapes", "split": "test", "seeds": list(seeds), "per slice": per_slice},
            "cut at layer": CUT,
            "ratios": list(RATIOS),
            "permutations of random per seed": DRAWS,
            "versions": {
                "vispco": vispco.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "numpy": np.__version__,
            },
        },
        "unpruned": record(np.concatenate(whole), slices, len(seeds)),
        "refused": {},
        "scores": {},
    }
    for entry in wanted:
        begun = time.process_time()
        try:
            parts = [measure(base, entry, keeps, seed) for base, seed in zip(bases, seeds, strict=True)]
        except VispcoError as error:
            results["refused"][entry.label] = str(error)
            print(f"{entry.label}: refused, {error}", flush=True)
            continue
        both = {name: np.concatenate([part[name] for part in parts], axis=1) for name in ("score", "kl")}
        measured[entry.label] = both
        about = {"selector": entry.selector, "params": entry.params, "attention": entry.attention}
        results["scores"][entry.label] = about | {
            f"{ratio:g}": {
                "cost": rounded(np.mean([part["cost"][at] for part in parts])),
                **record(both["score"][at], slices, len(seeds), both["kl"][at]),
                # No table shows slices at half of the tokens, where most rows are close together.
                "minus": versus(measured, entry.label, at, slices, np.concatenate(whole), by_slice=ratio < 0.5),
            }
            for at, ratio in enumerate(RATIOS)
        }
        means = ", ".join(f"{100 * score:.1f}" for score in both["score"].mean(axis=1))
        print(f"{entry.label}: {means} ({time.process_time() - begun:.1f} s)", flush=True)
    results["pairs"] = {
        f"{a} - {b}": {
            f"{ratio:g}": versus({b: measured[b], a: measured[a]}, a, at, slices, references=(b,))[b]
            for at, ratio in enumerate(RATIOS)
        }
        for a, b in PAIRS
        if a in measured and b in measured
    }
    results["same choices"] = same_choices(measured)
    results["downsampled"] = smaller(bases, wanted, slices)
    return results


def measure(base: Evaluator, entry: Entry, keeps: list[tuple[float, ...]], seed: int) -> dict[str, Any]:
    """Scores and KL (ratios, samples), and costs; of the random selector means over permutations."""
    draws: list[dict[str, Any]] = [entry.params]
    if entry.selector == "random":
        draws = [{"seed": DRAWS * seed + draw} for draw in range(DRAWS)]
    evaluators = [base.share(entry.selector, params) for params in draws]
    found = [evaluator.evaluate(keeps) for evaluator in evaluators]
    cost = evaluators[0].cost()
    return {
        "score": np.mean([[quality.score for quality in draw] for draw in found], axis=0),
        "kl": np.mean([[quality.kl for quality in draw] for draw in found], axis=0),
        "cost": [cost.exact(keep) for keep in keeps],
    }


def smaller(bases: list[Evaluator], wanted: Sequence[Entry], slices: dict[str, list[int]]) -> dict[str, Any]:
    """The control: smaller pictures, and cuts that keep as many tokens as may cost what the picture costs."""
    full = shapes.SIZE // bases[0].model.config.vision_config.patch_size
    layers, seeds = bases[0].shape.layers, range(len(bases))
    rivals = [entry for entry in wanted if entry.label in AGAINST_SMALLER]
    costs = {entry.label: bases[0].share(entry.selector, entry.params).cost() for entry in rivals}
    found: dict[str, Any] = {"sides": {}, "equal cost": {}}
    for side in SIDES:
        parts = [downsample(base, side / full) for base in bases]
        score = np.concatenate([part.quality.score for part in parts])
        kl = np.concatenate([part.quality.kl for part in parts])
        cost = np.mean([part.costs["flops"] for part in parts])
        found["sides"][str(side)] = {"tokens": side**2, "cost": rounded(cost), **record(score, slices, len(bases), kl)}
        print(f"downsampled to {side} x {side}: {100 * score.mean():.1f}, cost {cost:.3f}", flush=True)
        found["equal cost"][str(side)] = {}
        for entry in rivals:
            keep = most_for(cost, costs[entry.label], full**2, layers)
            if keep is None:
                continue
            cut = [measure(base, entry, [keep], seed)["score"][0] for base, seed in zip(bases, seeds, strict=True)]
            found["equal cost"][str(side)][entry.label] = {
                "kept": round(keep[-1] * full**2),
                "cost": rounded(costs[entry.label].exact(keep)),
                "score": rounded(bootstrap_mean(np.concatenate(cut))),
                "minus picture": rounded(paired_difference(np.concatenate(cut), score)),
            }
    return found


def most_for(budget: float, cost: FlopCost, tokens: int, layers: int) -> tuple[float, ...] | None:
    """The cut at layer ``CUT`` that keeps most tokens within a budget; None if none is cheap enough."""
    cuts = [(1.0,) * CUT + (kept / tokens,) * (layers - CUT) for kept in range(1, tokens + 1)]
    return next((keep for keep in reversed(cuts) if cost.exact(keep) <= budget), None)


if __name__ == "__main__":
    main()
