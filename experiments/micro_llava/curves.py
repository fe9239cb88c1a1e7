"""Draw the training curves of a log.

python experiments/micro_llava/curves.py experiments/micro_llava/log.jsonl experiments/micro_llava/curves.png
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from vispco.embedded import shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.log.read_text().splitlines()]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for stage, axes, names in (
        ("vision", left, ("shape", "digit", "color", "empty")),
        ("answers", right, tuple(shapes.SLICES)),
    ):
        part = [row for row in rows if row["stage"] == stage]
        for name in names:
            axes.plot([row["step"] for row in part], [row[name] for row in part], label=name)
        axes.set(title=f"{stage}: validation accuracy", xlabel="step", ylim=(0, 1.02))
        axes.legend(fontsize=7, loc="lower right")
        axes.grid(alpha=0.3)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
