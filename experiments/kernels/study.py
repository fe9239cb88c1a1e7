"""Every kernel under the learned search, at budgets from just above the least to 90 %, on the embedded model.

python -m experiments.kernels.study
"""

import argparse
import json
from pathlib import Path

import torch

from experiments.search_cost.measuring import measure_all, open_splits
from vispco.evaluation import Ledger
from vispco.kernels import REGISTRY, make_kernel
from vispco.search import LearnedSearch, LearnedSettings

BUDGETS = (0.22, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
KERNELS = {name: 3 for name in REGISTRY} | {"multistep, 1 step": 1, "multistep, 2 steps": 2}
OUT = Path(__file__).parent / "results.json"


def run(seeds: range, search_samples: int, report_samples: int, **options) -> list[dict]:
    results = []
    for seed in seeds:
        evaluator, report = open_splits("micro-llava", "fastv", seed, search_samples, report_samples)
        found, forwards = {}, {}
        for label, steps in KERNELS.items():
            own = evaluator.head(search_samples, Ledger())
            kernel = make_kernel(label.partition(",")[0], own.replay.layers, steps)
            search = LearnedSearch(own, evaluator.cost(), kernel, BUDGETS, LearnedSettings(**options), seed=seed)
            found[label] = {one.budget: one.schedule for one in search.run() if one.budget in BUDGETS}
            forwards[label] = own.ledger.forwards
            print(seed, label, round(own.ledger.forwards), flush=True)
        results.append({"seed": seed, "forwards": forwards, **measure_all(report, found)})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--report-samples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = run(range(options.seeds), 200, options.report_samples)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
