"""Table and figure of the ablations.

python -m experiments.ablations.tables
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent


def rows(results: list[dict]) -> list[tuple[str, float, float, float, float]]:
    """Name, hypervolume relative to the shipped search, score, log KL and forwards; means over seeds."""
    found = []
    for name in results[0]["found"]:
        ratios = [one["found"][name]["hypervolume"] / one["found"]["as shipped"]["hypervolume"] for one in results]
        points = [point for one in results for point in one["found"][name]["points"].values()]
        score = float(np.mean([point["score"] for point in points]))
        divergence = float(np.mean(np.log([point["kl"] + 0.01 for point in points])))
        forwards = float(np.mean([one["search"][name]["forwards"] for one in results]))
        found.append((name, float(np.mean(ratios)), score, divergence, forwards))
    return found


def table(results: list[dict]) -> str:
    lines = [
        "| search | hypervolume, as shipped = 1 | mean score | mean log(KL + 0.01) | forwards |",
        "|---|---|---|---|---|",
    ]
    for name, ratio, score, divergence, forwards in rows(results):
        lines.append(f"| {name} | {ratio:.4f} | {score:.4f} | {divergence:+.3f} | {forwards:.0f} |")
    return "\n".join(lines)


def draw(results: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    table_rows = rows(results)[::-1]
    axes.barh([name for name, *_ in table_rows], [100 * (ratio - 1) for _, ratio, *_ in table_rows])
    axes.axvline(0, color="grey", lw=0.8)
    axes.set(xlabel="hypervolume against the search as shipped, %")
    axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    results = json.loads((HERE / "results.json").read_text())
    page = HERE / "README.md"
    before, rest = page.read_text().split("<!-- table -->\n")
    page.write_text(before + "<!-- table -->\n" + table(results) + "\n<!-- end -->" + rest.split("<!-- end -->")[1])
    draw(results, HERE / "results.png")


if __name__ == "__main__":
    main()
