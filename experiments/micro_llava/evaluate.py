"""Accuracy of the embedded checkpoint on the test split, and what plain pruning does to it.

python experiments/micro_llava/evaluate.py --out experiments/micro_llava/results.json
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from vispco.data import load_samples
from vispco.engine import fingerprint, load_checkpoint
from vispco.evaluation import Evaluator
from vispco.frontier import bootstrap_mean

RATIOS = (0.5, 0.25, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro-llava")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--layers", type=int, nargs="+", default=[2], help="layers at whose input tokens are cut")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model, processor = load_checkpoint(options.model)
    samples = load_samples("shapes", "test", options.samples)
    fastv = Evaluator(model, processor, samples, "fastv")
    slices = defaultdict(list)
    for index, sample in enumerate(samples):
        slices[sample.slice].append(index)
    count = fastv.replay.layers
    schedules = {"unpruned": (1.0,) * count} | {
        f"cut at layer {layer} to {100 * ratio:.0f} %": (1.0,) * layer + (ratio,) * (count - layer)
        for layer in options.layers
        for ratio in RATIOS
    }
    results = {"samples": len(samples), "model": fingerprint(model), "scores": {}}
    for name, evaluator in {"fastv": fastv, "random": fastv.share("random", {"seed": 0})}.items():
        for label, quality in zip(schedules, evaluator.evaluate(list(schedules.values())), strict=True):
            by_slice = {key: round(float(np.mean(quality.score[rows])), 4) for key, rows in slices.items()}
            interval = {key: round(value, 4) for key, value in bootstrap_mean(quality.score)._asdict().items()}
            results["scores"][f"{name}, {label}"] = {**interval, **by_slice}
            print(f"{name}, {label}", results["scores"][f"{name}, {label}"])
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
