"""The README's tables, from results.json alone."""

from collections.abc import Callable
from typing import Any

from experiments.selectors.page import percent, table

MIDDLE, FEW = "0.25", "0.11"
ALPHAS = tuple(f"balanced_fastv alpha={alpha / 10}" for alpha in range(11))
AGAINST_SMALLER = ("random", "fastv", "pooling", "uniform_grid", "window_fastv", "tome")
MISSING = "not run"


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Markdown by the name of its place."""
    return {name: make(results) for name, make in TABLES.items()}


def config(results: dict[str, Any]) -> str:
    c = results["config"]
    data, number = c["data"], len(results["unpruned"]["slices"])
    text = (
        f"{len(data['seeds'])} seeds of {data['per slice']} samples in each of {number} slices, "
        f"{len(data['seeds']) * data['per slice'] * number} test samples in all; {len(results['scores'])} entries; "
        f"cut at layer {c['cut at layer']}; {c['dtype']}, {c['backend']}; "
        + ", ".join(f"{name} {version}" for name, version in c["versions"].items())
        + f". Unpruned: {percent(results['unpruned']['score'])}."
    )
    return ("**REHEARSAL: too few samples to mean anything.** " if c["rehearsal"] else "") + text


def _ranked(results: dict[str, Any]) -> list[str]:
    return sorted(results["scores"], key=lambda label: -results["scores"][label][MIDDLE]["score"][0])


def scores(results: dict[str, Any]) -> str:
    ratios = [f"{ratio:g}" for ratio in results["config"]["ratios"]]
    rows = []
    for label in _ranked(results):
        entry = results["scores"][label]
        by_seed = ", ".join(f"{100 * mean:.1f}" for mean in entry[MIDDLE]["seeds"])
        means = [percent(entry[ratio]["score"]) for ratio in ratios]
        rows.append([label, entry["attention"], *means, by_seed, f"{entry[MIDDLE]['cost']:.3f}"])
    header = ["selector", "attention of", *(f"{float(r):.0%}" for r in ratios), "seeds at 25%", "cost at 25%"]
    return table(header, rows)


def slices(results: dict[str, Any]) -> str:
    names = list(results["unpruned"]["slices"])

    def row(label: str, found: dict[str, Any]) -> list[str]:
        return [label, *(f"{100 * found['slices'][name][0]:.1f}" for name in names)]

    chosen = [row(label, results["scores"][label][MIDDLE]) for label in _ranked(results)]
    return table(["selector", *names], [row("unpruned", results["unpruned"]), *chosen])


def differences(results: dict[str, Any]) -> str:
    rows = []
    for label in _ranked(results):
        entry, row = results["scores"][label], [label]
        for ratio in (MIDDLE, FEW):
            for other in ("unpruned", "random", "fastv"):
                found = entry[ratio]["minus"].get(other)
                row.append(percent(found["mean"], sign=True) if found else "")
        rows.append(row)
    header = [f"{float(ratio):.0%} - {other}" for ratio in (MIDDLE, FEW) for other in ("unpruned", "random", "fastv")]
    return table(["selector", *header], rows)


def _minus(results: dict[str, Any], label: str, other: str, ratio: str, part: str, turn: bool = False) -> str:
    """A difference; ``turn`` gives that of the other minus this one."""
    found = results["scores"].get(label, {}).get(ratio, {}).get("minus", {}).get(other)
    return _part(found, part, turn)


def _part(found: dict[str, Any] | None, part: str, turn: bool = False) -> str:
    if found is None:
        return MISSING
    value, low, high = found["mean"] if part == "mean" else found["slices"][part]
    return percent([-value, -high, -low] if turn else [value, low, high], sign=True)


def _parts(results: dict[str, Any]) -> list[str]:
    return ["mean", *results["unpruned"]["slices"]]


def windows(results: dict[str, Any]) -> str:
    labels = ("window_fastv", "window_fastv window=2", "window_fastv window=5")
    header = [f"{label}, {float(ratio):.0%}" for label in labels for ratio in (MIDDLE, FEW)]
    cells = [(label, ratio) for label in labels for ratio in (MIDDLE, FEW)]
    rows = [
        [part, *(_minus(results, label, "fastv", ratio, part) for label, ratio in cells)] for part in _parts(results)
    ]
    return table(["minus fastv", *header], rows)


def controls(results: dict[str, Any]) -> str:
    """Against how many attention methods the controls win, tie and lose; judged by the interval."""
    rivals = [
        label
        for label, entry in results["scores"].items()
        if entry["attention"] != "none" and entry["params"] == {} and label != "reverse_fastv"
    ]
    rows = []
    for part in _parts(results):
        row = [part]
        for control in ("random", "pooling"):
            for ratio in (MIDDLE, FEW):
                count = {"won": 0, "tied": 0, "lost": 0}
                for rival in rivals:
                    minus = results["scores"][rival][ratio]["minus"]
                    if control not in minus:
                        continue
                    _, low, high = minus[control]["mean"] if part == "mean" else minus[control]["slices"][part]
                    count["won" if high < 0 else "lost" if low > 0 else "tied"] += 1
                row.append(" / ".join(str(number) for number in count.values()))
        rows.append(row)
    header = [f"{control}, {float(ratio):.0%}" for control in ("random", "pooling") for ratio in (MIDDLE, FEW)]
    return table([f"won / tied / lost against {len(rivals)}", *header], rows)


def guidance(results: dict[str, Any]) -> str:
    pair = results["pairs"].get("sparsevlm - visual_fastv", {})
    rows = []
    for part in _parts(results):
        fastv = [_minus(results, "visual_fastv", "fastv", ratio, part, turn=True) for ratio in (MIDDLE, FEW)]
        rows.append([part, *fastv, *(_part(pair.get(ratio), part) for ratio in (MIDDLE, FEW))])
    names = ("fastv - visual_fastv", "sparsevlm - visual_fastv")
    return table(["slice", *(f"{name}, {float(ratio):.0%}" for name in names for ratio in (MIDDLE, FEW))], rows)


def alphas(results: dict[str, Any]) -> str:
    pair = results["pairs"].get("balanced_fastv alpha=0.1 - balanced_fastv alpha=0.9", {}).get(MIDDLE)
    if not all(label in results["scores"] for label in ALPHAS):
        return MISSING
    rows = []
    for part in _parts(results):
        entries = [results["scores"][label][MIDDLE] for label in ALPHAS]
        found = [(entry["score"] if part == "mean" else entry["slices"][part])[0] for entry in entries]
        best = max(found)
        cells = [f"**{100 * value:.1f}**" if value == best else f"{100 * value:.1f}" for value in found]
        rows.append([part, *cells, _part(pair, part)])
    return table(["slice", *(f"{alpha / 10}" for alpha in range(11)), "0.1 minus 0.9"], rows)


def smaller(results: dict[str, Any]) -> str:
    rows = []
    for side, found in results["downsampled"]["sides"].items():
        rows.append([f"{side} x {side}", str(found["tokens"]), f"{found['cost']:.3f}", percent(found["score"])])
    return table(["picture", "tokens", "cost", "score"], rows)


def equal_cost(results: dict[str, Any]) -> str:
    rows = []
    for side, cuts in results["downsampled"]["equal cost"].items():
        if cuts:
            cost = results["downsampled"]["sides"][side]["cost"]
            cells = [cuts.get(label) for label in AGAINST_SMALLER]
            shown = [f"{percent(c['minus picture'], sign=True)}, {c['kept']} tokens" if c else MISSING for c in cells]
            rows.append([f"{side} x {side}, {cost:.3f}", *shown])
    return table(["picture, cost", *AGAINST_SMALLER], rows)


def refused(results: dict[str, Any]) -> str:
    lines = [f"- `{label}`: {reason}" for label, reason in results["refused"].items()]
    return "\n".join(lines) or "None: the embedded model gives every registered selector what it asks for."


def same(results: dict[str, Any]) -> str:
    return "\n".join(f"- {', '.join(f'`{label}`' for label in group)}" for group in results["same choices"]) or "None."


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "config": config,
    "scores": scores,
    "slices": slices,
    "differences": differences,
    "windows": windows,
    "controls": controls,
    "guidance": guidance,
    "alphas": alphas,
    "smaller": smaller,
    "equal-cost": equal_cost,
    "refused": refused,
    "same": same,
}
