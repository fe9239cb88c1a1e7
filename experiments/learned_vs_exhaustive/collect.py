"""Collect the indicators of several demo runs into one result file.

    vispco search --multirun experiment=demo seed=0,1,2 hydra.sweep.dir=runs/three_seeds
    python experiments/learned_vs_exhaustive/collect.py runs/three_seeds/0 runs/three_seeds/1 runs/three_seeds/2
"""

import argparse
import json
from pathlib import Path

from vispco.runs import RunFolder

OUT = Path(__file__).parent / "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    results = []
    for path in options.runs:
        record = RunFolder(path).read_frontier()
        configs = [
            {"budget": c["budget"], "flops": c["costs"]["flops"], "score": c["quality"]["score"], "keep": c["keep"],
             "regret": record["regret"][f"{c['budget']:g}"]}
            for c in record["configs"]
        ]  # fmt: skip
        seed = record["configs"][0]["provenance"]["seed"]
        results.append({"seed": seed, "indicators": record["indicators"], "configs": configs})
        regrets = [c["regret"]["value"] for c in configs]
        indicators = record["indicators"]
        print(
            f"seed {seed}: hypervolume ratio {indicators['hypervolume ratio to grid']:.4f}, above blind "
            f"{indicators['hypervolume ratio to grid above blind']:.4f}, model-FLOPs ratio "
            f"{indicators['cost ratio to grid']:.3f}, mean regret {sum(regrets) / len(regrets):+.4f}, "
            f"worst {max(regrets):+.4f}"
        )
    OUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
