"""What each part of the learned search is worth: one change at a time, on the embedded model.

python -m experiments.ablations.study
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.search_cost.measuring import measure_all, open_splits
from vispco.evaluation import Ledger
from vispco.kernels import make_kernel
from vispco.search import AugmentedLagrangian, LearnedSearch, LearnedSettings
from vispco.search import learned as module
from vispco.search.space import fit_to_budget

BUDGETS = (0.22, 0.26, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 0.9)
OUT = Path(__file__).parent / "results.json"


class EvenStarts(LearnedSearch):
    """Starts with evenly spaced cuts, as if nothing had been probed."""

    def choose_starts(self) -> tuple[Tensor, Tensor]:
        layers, steps = self.evaluator.replay.layers, self.kernel.steps
        cuts = np.linspace(1, layers, steps + 1)[:-1].round()
        even = [float(np.prod([0.5 for cut in cuts if cut <= layer])) for layer in range(layers)]
        rows = [self.kernel.encode(fit_to_budget(even, self.cost, budget)) for budget in self.budgets]
        return torch.stack(rows), torch.arange(len(rows))


class SoftMultiplier(LearnedSearch):
    """The multiplier answers to the soft cost instead of the exact one."""

    def exact_violation(self, learned, targets: Tensor) -> Tensor:
        with torch.no_grad():
            rows = self.legal(learned())
            return self.cost.excess(self.kernel.ratios(rows[:, : self.kernel.size], 10.0), targets)


class NoMultiplier(AugmentedLagrangian):
    """A quadratic penalty that grows, and no multiplier."""

    def update(self, violation: Tensor) -> None:
        super().update(violation)
        self.multiplier.zero_()


class PenaltyOnly(LearnedSearch):
    """A plain quadratic penalty."""

    def train(self, starts: Tensor, owner: Tensor) -> Tensor:
        own, module.AugmentedLagrangian = module.AugmentedLagrangian, NoMultiplier
        try:
            return super().train(starts, owner)
        finally:
            module.AugmentedLagrangian = own


class TrainedOnly(LearnedSearch):
    """What training ends with is taken, whatever it started from."""

    def best(self, candidates, measured):
        return super().best(candidates[len(candidates) // 2 :], measured)


class EvenTrainedOnly(EvenStarts, TrainedOnly):
    """Even starts, and what training makes of them."""


VARIANTS = {
    "as shipped": (LearnedSearch, {}),
    "starts alone (no training)": (LearnedSearch, {"lr": 1e-9}),
    "trained, no choice at the end": (TrainedOnly, {}),
    "trained, 24 steps": (TrainedOnly, {"steps": 24}),
    "even starts, trained": (EvenTrainedOnly, {}),
    "even starts, trained, 24 steps": (EvenTrainedOnly, {"steps": 24}),
    "even starts alone": (EvenStarts, {"lr": 1e-9}),
    "rows instead of a predictor": (TrainedOnly, {"predictor": False}),
    "rows, 3 starts": (LearnedSearch, {"predictor": False, "starts": 3}),
    "temperature 0.3 to 0.1": (TrainedOnly, {"temperature": (0.3, 0.1)}),
    "temperature 0.02 to 0.005": (TrainedOnly, {"temperature": (0.02, 0.005)}),
    "straight-through": (TrainedOnly, {"straight_through": True}),
    "penalty without multiplier": (PenaltyOnly, {}),
    "soft multiplier step": (SoftMultiplier, {}),
    "fixed centres": (TrainedOnly, {"kernel": "multistep_fixed"}),
    "polished, 2 rounds": (LearnedSearch, {"polish_rounds": 2, "polish_samples": 200}),
}


def run(seeds: range, search_samples: int, report_samples: int, names=tuple(VARIANTS), **options) -> list[dict]:
    results = []
    for seed in seeds:
        evaluator, report = open_splits("micro-llava", "fastv", seed, search_samples, report_samples)
        found, notes = {}, {}
        for name in names:
            search_class, changes = VARIANTS[name]
            changes = {**options, **changes}
            own = evaluator.head(search_samples, Ledger())
            kernel = make_kernel(changes.pop("kernel", "multistep"), own.replay.layers, 3)
            steps = []
            search = search_class(
                own, evaluator.cost(), kernel, BUDGETS, LearnedSettings(**changes), seed=seed, report=steps.append
            )
            found[name] = {one.budget: one.schedule for one in search.run()}
            notes[name] = {"forwards": own.ledger.forwards, "violation": [step.violation for step in steps]}
            print(seed, name, round(own.ledger.forwards), flush=True)
        results.append({"seed": seed, "search": notes, **measure_all(report, found)})
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
