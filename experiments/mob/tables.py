"""The README's tables, from results.json alone."""

from collections.abc import Callable
from typing import Any

from experiments.selectors.page import percent, table


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Markdown by the name of its place."""
    return {name: make(results) for name, make in TABLES.items()}


def interval(found: list[float] | None, digits: int = 3, sign: bool = False) -> str:
    if found is None:
        return ""
    # Adding 0 makes a zero of -0.
    value, low, high = (f"{round(number, digits) + 0.0:{'+' if sign else ''}.{digits}f}" for number in found)
    return f"{value} [{low}, {high}]"


def signed(value: float | None) -> str:
    return "" if value is None else f"{round(value, 2) + 0.0:+.2f}"


def config(results: dict[str, Any]) -> str:
    c = results["config"]
    data, number = c["data"], len(results["coupling"]["slices"]) - 1
    text = (
        f"{c['settings']} settings; "
        f"{len(data['seeds'])} seeds of {data['per slice']} samples in each of {number} slices, "
        f"{len(data['seeds']) * data['per slice'] * number} test samples in all; cut at layer {c['cut at layer']}; "
        f"{c['dtype']}, {c['backend']}; "
        + ", ".join(f"{name} {version}" for name, version in c["versions"].items())
        + "."
    )
    return ("**REHEARSAL: too few samples to mean anything.** " if c["rehearsal"] else "") + text


def couplings(results: dict[str, Any]) -> str:
    rows = [
        [name, *(f"{value:.3f}" for value in found["5, 50, 95 %"]), f"{100 * found['strong']:.0f}"]
        for name, found in results["coupling"]["slices"].items()
    ]
    return table(["slice", "5 %", "median", "95 %", "below the median, %"], rows)


def curves(results: dict[str, Any]) -> str:
    shares = [f"{share:g}" for share in results["config"]["shares"]]
    rows = []
    for name in ("all", "strong", "weak"):
        for ratio, part in results["curves"][name].items():
            least = min(value for value, _, _ in part["kl"])
            cells = [f"**{v:.3f}**" if v == least else f"{v:.3f}" for v, _, _ in part["kl"]]
            rows.append([f"{name}, {float(ratio):.0%}", *cells])
    return table(["coupling, tokens", *shares], rows)


def slices(results: dict[str, Any]) -> str:
    shares, ratio = [f"{share:g}" for share in results["config"]["shares"]], "0.11"
    rows = []
    for name in sorted(set(results["curves"]) - {"all", "strong", "weak"}):
        scores = [value for value, _, _ in results["curves"][name][ratio]["score"]]
        rows.append([name, *(f"**{100 * v:.0f}**" if v == max(scores) else f"{100 * v:.0f}" for v in scores)])
    return table(["score at 11%", *shares], rows)


def folds(results: dict[str, Any]) -> str:
    shares, ks = results["config"]["shares"][1:], results["config"]["folds"]
    rows = []
    for ratio, found in results["folds"].items():
        for k in ks:
            rows.append([f"{float(ratio):.0%}, {k}", *(f"{found[f'{share:g}, {k}']:.3f}" for share in shares)])
    return table(["tokens, k", *(f"{share:g}" for share in shares)], rows)


def optima(results: dict[str, Any]) -> str:
    rows = []
    for name, by_ratio in results["optima"].items():
        for ratio, found in by_ratio.items():
            best, kl = found["best"], found["kl"]
            setting = "0" if best["share"] == 0 else f"{best['share']:g}, {best['k']}"
            cells = [
                interval(kl["best"]),
                *(interval(kl[key], sign=True) for key in ("preset - best", "default - best")),
            ]
            other = interval(kl["preset - other preset"], sign=True)
            score = percent(found["score"]["preset - best"], sign=True)
            rows.append([f"{name}, {float(ratio):.0%}", setting, found["preset"], *cells, other, score])
    header = ["group, tokens", "best share, k", "preset", "KL of best", "preset - best", "default - best"]
    return table([*header, "preset - other preset", "score, preset - best"], rows)


def within(results: dict[str, Any]) -> str:
    names = ("e_p", "e_v", "max", "sum")
    rows = []
    for ratio, found in results["bound"].items():
        for error in ("kl", "change"):
            cells = [interval(found["settings"][error][name], 2, sign=True) for name in names]
            rows.append([f"{float(ratio):.0%}, {error}", *cells])
    return table(["tokens, error", *names], rows)


def between(results: dict[str, Any]) -> str:
    names = ("e_p", "e_v", "max", "sum", "eta")
    rows = []
    for ratio, found in results["bound"].items():
        for error in ("kl", "change"):
            parts = [found["samples"][error][name] for name in names]
            cells = [f"{interval(part['all'], 2, sign=True)}; {signed(part['mean of slices'])}" for part in parts]
            rows.append([f"{float(ratio):.0%}, {error}", *cells])
    return table(["tokens, error", *names], rows)


def per_sample(results: dict[str, Any]) -> str:
    rows = [
        [f"{float(ratio):.0%}", interval(found["all"], 2, sign=True), signed(found["mean of slices"])]
        for ratio, found in results["per sample"].items()
    ]
    return table(["tokens", "eta and best share", "mean of slices"], rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "config": config,
    "coupling": couplings,
    "curves": curves,
    "slices": slices,
    "folds": folds,
    "optima": optima,
    "within": within,
    "between": between,
    "per-sample": per_sample,
}
