"""Table and figure of the study of kernels.

python -m experiments.kernels.tables
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent


def table(results: list[dict]) -> str:
    """Score by budget and hypervolume of every kernel, means over seeds."""
    names = list(results[0]["found"])
    budgets = list(results[0]["found"][names[0]]["points"])
    budgets.sort(key=float)
    lines = [f"| kernel | {' | '.join(budgets)} | hypervolume | forwards |", "|---" * (len(budgets) + 3) + "|"]
    for name in names:
        scores = [np.mean([one["found"][name]["points"][b]["score"] for one in results]) for b in budgets]
        volume = np.mean([one["found"][name]["hypervolume"] for one in results])
        spent = np.mean([one["forwards"][name] for one in results])
        cells = " | ".join(f"{100 * score:.1f}" for score in scores)
        lines.append(f"| {name} | {cells} | {volume:.4f} | {spent:.0f} |")
    return "\n".join(lines)


def draw(results: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    for name in results[0]["found"]:
        budgets = sorted(results[0]["found"][name]["points"], key=float)
        scores = [np.mean([one["found"][name]["points"][b]["score"] for one in results]) for b in budgets]
        axes.plot([float(b) for b in budgets], scores, marker="o", ms=3, label=name)
    axes.set(xlabel="budget (share of unpruned prefill FLOPs)", ylabel="accuracy, test split")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    results = json.loads((HERE / "results.json").read_text())
    page = HERE / "README.md"
    before, rest = page.read_text().split("<!-- table -->\n")
    page.write_text(before + "<!-- table -->\n" + table(results) + "\n<!-- end -->" + rest.split("<!-- end -->")[1])
    draw(results, HERE / "results.png")


if __name__ == "__main__":
    main()
