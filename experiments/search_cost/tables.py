"""Tables and the figure of the study of search cost, from the results of all seeds.

python -m experiments.search_cost.tables
"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""95 % quantile of Student's t, two-sided, by number of seeds."""


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds."""
    mean = float(np.mean(values))
    half = STUDENT[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def against(results: Sequence[dict], name: str, rival: str) -> tuple[float, float, float]:
    """Relative difference of hypervolumes, paired by seed, in per cent."""
    pairs = [(one["methods"][name]["hypervolume"], one["methods"][rival]["hypervolume"]) for one in results]
    return interval([100 * (own / other - 1) for own, other in pairs])


def regret(results: Sequence[dict], name: str) -> tuple[float, float, float]:
    """Score of the grid's schedule less that of the method's, in points, mean over budgets; interval over seeds."""
    rows = [[point["regret"] for point in one["methods"][name]["points"].values()] for one in results]
    return interval([100 * float(np.mean(row)) for row in rows])


def summary_table(results: Sequence[dict]) -> str:
    """Every method: hypervolume, against the grid and the learned search, regret, forwards."""
    lines = [
        "| method | hypervolume | against the grid, % | learned against it, % | regret, points | forwards | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in results[0]["methods"]:
        volume = np.mean([one["methods"][name]["hypervolume"] for one in results])
        spent = np.mean([one["methods"][name]["forwards"] for one in results])
        share = np.mean([one["methods"][name]["forwards"] / one["methods"]["grid"]["forwards"] for one in results])
        cells = [show(against(results, name, "grid")), show(against(results, "learned", name))]
        cells[0] = "-" if name == "grid" else cells[0]
        cells[1] = "-" if name == "learned" else cells[1]
        lines.append(
            f"| {name} | {volume:.4f} | {cells[0]} | {cells[1]} | {show(regret(results, name))} | {spent:.0f} | "
            f"{share:.3f} |"
        )
    return "\n".join(lines)


def seed_table(results: Sequence[dict]) -> str:
    """The learned search against the grid, seed by seed."""
    lines = [
        "| seed | hypervolume ratio | mean regret, points | worst budget, points | share of grid |",
        "|---|---|---|---|---|",
    ]
    for one in results:
        learned, grid = one["methods"]["learned"], one["methods"]["grid"]
        regrets = [100 * point["regret"] for point in learned["points"].values()]
        lines.append(
            f"| {one['seed']} | {learned['hypervolume'] / grid['hypervolume']:.4f} | {np.mean(regrets):+.2f} | "
            f"{max(regrets):+.2f} | {learned['forwards'] / grid['forwards']:.3f} |"
        )
    return "\n".join(lines)


def show(values: tuple[float, float, float]) -> str:
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*values)


def draw(results: Sequence[dict], path: Path) -> None:
    """Score against cost, mean over seeds, and hypervolume against the grid."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    names = list(results[0]["methods"])
    for name in names:
        found = [one["methods"][name]["points"] for one in results]
        common = [budget for budget in found[0] if all(budget in points for points in found)]
        costs = [np.mean([points[budget]["cost"] for points in found]) for budget in common]
        scores = [np.mean([points[budget]["score"] for points in found]) for budget in common]
        order = np.argsort(costs)
        style = {"lw": 2.2, "zorder": 5} if name == "learned" else {"lw": 1, "alpha": 0.8}
        left.plot(np.array(costs)[order], np.array(scores)[order], marker="o", ms=3, label=name, **style)
    left.set(xlabel="cost (share of unpruned prefill FLOPs)", ylabel="accuracy, test split")
    left.legend(fontsize=7)
    rivals = [name for name in names if name != "grid"]
    means = [against(results, name, "grid") for name in rivals]
    errors = np.array([[mean - low, high - mean] for mean, low, high in means]).T
    right.errorbar([mean for mean, *_ in means], range(len(rivals)), xerr=errors, fmt="o", capsize=3)
    right.axvline(0, color="grey", lw=0.8)
    right.set_yticks(range(len(rivals)), rivals)
    right.set(xlabel="hypervolume against the exhaustive grid, %")
    figure.savefig(path, dpi=110)


def main() -> None:
    results = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("seed*.json"))]
    page = HERE / "README.md"
    text = page.read_text()
    for name, table in (("summary", summary_table(results)), ("seeds", seed_table(results))):
        start, end = f"<!-- {name} -->\n", f"\n<!-- end {name} -->"
        before, rest = text.split(start)
        text = before + start + table + end + rest.split(end)[1]
    page.write_text(text)
    draw(results, HERE / "results.png")


if __name__ == "__main__":
    main()
