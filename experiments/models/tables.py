"""Tables and figure of the study of models and selectors.

python -m experiments.models.tables
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent


def mean_score(found: dict) -> float:
    return 100 * float(np.mean([point["score"] for point in found["points"].values()]))


def cells_table(record: dict) -> str:
    """Mean score over budgets, learned and fixed."""
    names = list(next(iter(record["cells"].values()))["found"])
    lines = [f"| model, selector | unpruned | {' | '.join(names)} | forwards |", "|---" * (len(names) + 3) + "|"]
    for cell, values in record["cells"].items():
        scores = " | ".join(f"{mean_score(values['found'][name]):.1f}" for name in names)
        lines.append(f"| {cell} | {100 * values['unpruned']:.1f} | {scores} | {values['forwards']:.0f} |")
    return "\n".join(lines)


def moved_table(moved: dict) -> str:
    """Mean score on each target (row) of schedules from each source (column), over the budgets that all can meet."""
    sources = list(next(iter(moved.values()))["found"])
    lines = [f"| measured on | budgets | {' | '.join(sources)} |", "|---" * (len(sources) + 2) + "|"]
    for target, values in moved.items():
        found = values["found"]
        common = [b for b in found[sources[0]]["points"] if all(b in found[source]["points"] for source in sources)]
        scores = [100 * np.mean([found[source]["points"][b]["score"] for b in common]) for source in sources]
        lines.append(f"| {target} | {len(common)} | {' | '.join(f'{score:.1f}' for score in scores)} |")
    return "\n".join(lines)


def draw(record: dict, path: Path) -> None:
    models = sorted({cell.partition(", ")[0] for cell in record["cells"]})
    figure, axes = plt.subplots(1, len(models), figsize=(11, 3.6), constrained_layout=True, sharey=True)
    for place, model in zip(axes, models, strict=True):
        for cell, values in record["cells"].items():
            name, _, selector = cell.partition(", ")
            if name != model:
                continue
            for style, found in zip(("-", "--", ":"), values["found"].items(), strict=True):
                points = sorted((point["cost"], point["score"]) for point in found[1]["points"].values())
                color = {"fastv": "C0", "sparsevlm": "C1", "fitprune": "C2"}[selector]
                place.plot(
                    *zip(*points, strict=True), style, color=color, marker="o", ms=2.5, label=f"{selector}, {found[0]}"
                )
        place.set(title=model, xlabel="cost")
    axes[0].set(ylabel="accuracy, test split")
    axes[0].legend(fontsize=5.5)
    figure.savefig(path, dpi=110)


def main() -> None:
    record = json.loads((HERE / "results.json").read_text())
    page = HERE / "README.md"
    text = page.read_text()
    tables = {
        "cells": cells_table(record),
        "models": moved_table(record["across models"]),
        "slices": moved_table(record["across slices"]),
    }
    for name, table in tables.items():
        before, rest = text.split(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n{table}\n<!-- end {name} -->{rest.split(f'<!-- end {name} -->')[1]}"
    page.write_text(text)
    draw(record, HERE / "results.png")


if __name__ == "__main__":
    main()
