"""Tables and figure of the study of models and selectors.

python -m experiments.models.tables
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent


def common_scores(found: dict) -> tuple[int, list[float]]:
    """Number of budgets that all can meet, and everybody's mean score over those, in per cent."""
    budgets = set.intersection(*(set(one["points"]) for one in found.values()))
    return len(budgets), [100 * float(np.mean([one["points"][b]["score"] for b in budgets])) for one in found.values()]


def cells_table(record: dict) -> str:
    """Learned and fixed, over the budgets that all can meet; learned over all budgets beside it."""
    names = list(next(iter(record["cells"].values()))["found"])
    lines = [
        f"| model, selector | unpruned | budgets | {' | '.join(names)} | learned, all 5 budgets | forwards |",
        "|---" * (len(names) + 5) + "|",
    ]
    for cell, values in record["cells"].items():
        number, scores = common_scores(values["found"])
        every = 100 * np.mean([point["score"] for point in values["found"]["learned"]["points"].values()])
        cells = " | ".join(f"{score:.1f}" for score in scores)
        lines.append(
            f"| {cell} | {100 * values['unpruned']:.1f} | {number} | {cells} | {every:.1f} | {values['forwards']:.0f} |"
        )
    return "\n".join(lines)


def moved_table(moved: dict) -> str:
    """Mean score on each target (row) of schedules from each source (column), over the budgets that all can meet."""
    sources = list(next(iter(moved.values()))["found"])
    lines = [f"| measured on | budgets | {' | '.join(sources)} |", "|---" * (len(sources) + 2) + "|"]
    for target, values in moved.items():
        number, scores = common_scores(values["found"])
        lines.append(f"| {target} | {number} | {' | '.join(f'{score:.1f}' for score in scores)} |")
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
