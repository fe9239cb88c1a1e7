"""MoB on the embedded model: how K_p should go with the coupling, and whether its bound orders errors.

OMP_NUM_THREADS=1 python -m experiments.mob.study
python -m experiments.mob.study --per-slice 5 --rehearsal   # half a minute, to see that it runs
python -m experiments.mob.study --tables                    # README tables and plot from results.json
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
from experiments.mob.analysis import bound, couplings, curves, folds, optima, per_sample_optima
from experiments.mob.plot import draw
from experiments.mob.sweep import CUT, sweep
from experiments.mob.tables import tables
from experiments.selectors import page
from vispco.data import load_samples
from vispco.embedded import shapes
from vispco.engine import load_checkpoint
from vispco.evaluation import Evaluator, Provenance

HERE = Path(__file__).parent
RATIOS = (0.11, 0.22, 0.33)
"""Those of the published settings: 64, 128 and 192 of 576 tokens."""
SHARES = tuple(eighth / 8 for eighth in range(9))
FOLDS = (1, 2, 4, 8)
PER_SLICE = 60


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-slice", type=int, default=PER_SLICE, help="samples per slice and seed")
    parser.add_argument("--rehearsal", action="store_true", help="mark the results as such")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json, results.png and README.md")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    path = options.out / "results.json"
    if not options.tables:
        options.out.mkdir(parents=True, exist_ok=True)
        found = run(options.per_slice, rehearsal=options.rehearsal)
        path.write_text(page.dump(found, depth=4))
    results = json.loads(path.read_text())
    draw(results, options.out / "results.png")
    if (options.out / "README.md").exists():
        page.rewrite(options.out / "README.md", tables(results))


def settings() -> list[tuple[float, dict[str, Any]]]:
    """Everything that is run: at a share of 0 the fold plays no part."""
    grid = [{"share": share, "k": k} for share in SHARES for k in (FOLDS if share else FOLDS[:1])]
    return [(ratio, params) for ratio in RATIOS for params in [*grid, {"preset": "strong"}, {"preset": "weak"}]]


def run(per_slice: int, *, rehearsal: bool = False) -> dict[str, Any]:
    """Seed 0 chooses settings, seed 1 judges them."""
    model, processor = load_checkpoint("micro-llava")
    number, begun = per_slice * len(shapes.SLICES), time.process_time()
    bases = [Evaluator(model, processor, load_samples("shapes", "test", number, seed=seed)) for seed in (0, 1)]
    chosen = settings()
    sweeps = [sweep(base, chosen) for base in bases]
    print(f"{len(chosen)} settings on {2 * number} samples: {time.process_time() - begun:.0f} s", flush=True)
    slices = [[sample.slice for sample in base.samples] for base in bases]
    origin = Provenance.of(model, processor, 0)
    return {
        "config": {
            "rehearsal": rehearsal,
            "model": {"name": "micro-llava", "fingerprint": origin.model, "prompt": origin.prompt},
            "backend": origin.backend,
            "dtype": origin.dtype,
            "data": {"name": "shapes", "split": "test", "seeds": [0, 1], "per slice": per_slice},
            "cut at layer": CUT,
            "ratios": list(RATIOS),
            "shares": list(SHARES),
            "folds": list(FOLDS),
            "settings": len(chosen),
            "versions": {
                "vispco": vispco.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "numpy": np.__version__,
            },
        },
        "coupling": couplings(sweeps, slices),
        "curves": curves(sweeps, slices, chosen),
        "folds": folds(sweeps, chosen),
        "optima": optima(sweeps, slices, chosen),
        "per sample": per_sample_optima(sweeps, slices, chosen),
        "bound": bound(sweeps, slices, chosen),
    }


if __name__ == "__main__":
    main()
