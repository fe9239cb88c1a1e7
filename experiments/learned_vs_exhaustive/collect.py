"""Hold the learned frontiers of several seeds against the exhaustive one, on the test split.

    vispco search experiment=demo hydra.run.dir=runs/demo
    vispco search --multirun seed=1,2 hydra.sweep.dir=runs/seeds
    python experiments/learned_vs_exhaustive/collect.py runs/demo runs/seeds/0 runs/seeds/1

The first run holds the exhaustive grid, which has no seed; all runs share model, samples and prompts, which is checked.
"""

import argparse
import json
from pathlib import Path

from vispco.frontier import best_at_cost, comparable, epsilon, hypervolume, igd_plus, pareto_front, read_points
from vispco.runs import RunFolder

OUT = Path(__file__).parent / "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    points = {path: [point for point in read_points(path) if point.split == "test"] for path in options.runs}
    comparable([point for part in points.values() for point in part])
    exhaustive = [point for point in points[options.runs[0]] if point.method in ("grid", "unpruned")]
    searched = [p for p in read_points(options.runs[0]) if p.split == "validation" and p.method == "grid"]
    truth = pareto_front(exhaustive)
    by_schedule = {point.keep: point for point in exhaustive}
    floor = min(point.quality["score"] for part in points.values() for point in part if point.method != "control")
    grid_forwards = RunFolder(options.runs[0]).read_frontier()["indicators"]["grid forwards"]
    results = []
    for path, part in points.items():
        learned = [point for point in part if point.method in ("learned", "unpruned")]
        above = (1.0, floor)
        regrets = {}
        for point in learned:
            if point.budget is not None:
                rival = best_at_cost(searched, point.budget, quality="kl")
                if rival is not None:
                    score = by_schedule[rival.keep].quality["score"]
                    regrets[f"{point.budget:g}"] = round(score - point.quality["score"], 4)
        spent = RunFolder(path).read_frontier()["indicators"]["learned forwards"]
        results.append(
            {
                "seed": learned[0].seed,
                "hypervolume": hypervolume(learned),
                "hypervolume ratio": hypervolume(learned) / hypervolume(exhaustive),
                "hypervolume ratio above the lowest score": hypervolume(learned, reference=above)
                / hypervolume(exhaustive, reference=above),
                "IGD+": igd_plus(learned, truth),
                "epsilon": epsilon(learned, truth),
                "forwards": spent,
                "forwards / exhaustive": spent / grid_forwards,
                "mean regret": sum(regrets.values()) / len(regrets),
                "regret by budget": regrets,
            }
        )
        print({key: round(value, 4) for key, value in results[-1].items() if not isinstance(value, dict)})
    OUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
