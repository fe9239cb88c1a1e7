"""Tables of the page: what was published beside what was measured here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.selectors.page import table
from vispco.frontier import Interval
from vispco.profiling import bootstrap_median

PAGE = Path(__file__).with_name("published.md")

WHOLE_RUN = 36 * 60 + 16
NEXT = {
    "FastV": (0.128, 18 * 60 + 17),
    "SparseVLM": (0.156, 23 * 60 + 11),
    "MustDrop": (0.115, 23 * 60 + 40),
}
"""arXiv 2502.11501, LLaVA-NeXT-7B, 2 880 tokens to 320: share of the FLOPs, and seconds of a whole evaluation."""

TABLE_4 = {
    "Qwen2.5-VL-3B": ((83, 18), (74, 20), (76, 20)),
    "LLaVA-1.5-7B": ((114, 14), (96, 16), (97, 16)),
    "Gemma3-4B": ((94, 16), (81, 18), (81, 18)),
}
"""arXiv 2604.15188, Table 4, half of the FLOPs: milliseconds to the first token and tokens per second, full model,
FastV, FastV under a learned schedule."""

MOB = {"MoB, 320 at layer 2": 4.6 / 40.5, "MoB, 640 at layer 2": 9.1 / 40.5, "MoB, 960 at layer 2": 13.6 / 40.5}
"""arXiv 2505.10118, LLaVA-NeXT-7B: TFLOPs after and before."""

CONTROLS = {
    "FastV": "Random, as FastV",
    "MoB, as FastV": "Random, as FastV",
    "SparseVLM": "Random, as SparseVLM",
    "SparseVLM with recycling": "Random, as SparseVLM",
    "MustDrop": "Random, as MustDrop",
}

Cases = Mapping[str, Mapping[str, Any]]


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Markdown tables by name."""
    cases = results["prefill"]["cases"]
    return {
        "prefill": prefill_table(cases),
        "choosing": choosing_table(cases),
        "generation": generation_table(results["generation"]),
        "mob": mob_table(cases),
    }


def prefill_table(cases: Cases) -> str:
    """One prefill of every method; time on both clocks, against the full model and against FastV."""
    head = [
        "method", "FLOPs, published", "FLOPs", "KV", "time, published", "time, CPU clock", "wall clock", "time / FLOPs",
        "time against FastV, published", "time against FastV",
    ]  # fmt: skip
    rows = []
    for name, case in cases.items():
        if name == "full" or name in MOB:
            continue
        flops, run = NEXT.get(name.removesuffix(", dense"), (None, None))
        ours = ratio(case, cases["full"])
        against = ratio(case, cases["FastV"]) if "FLOPs" in case else None
        rows.append([
            name, number(flops), number(case.get("FLOPs")), number(case.get("KV")),
            number(run and run / WHOLE_RUN), interval(ours), interval(ratio(case, cases["full"], "wall")),
            number("FLOPs" in case and ours.value / case["FLOPs"], 2),
            number(run and run / NEXT["FastV"][1]), interval(against),
        ])  # fmt: skip
    return table(head, rows)


def choosing_table(cases: Cases) -> str:
    """Time beyond that of Random under the same schedule."""
    rows = []
    for name, control in CONTROLS.items():
        less = np.subtract(seconds(cases[name]), seconds(cases[control]))
        rows.append([
            name, interval(bootstrap_median(less / seconds(cases["full"])), percent=True),
            interval(bootstrap_median(less / seconds(cases[control])), percent=True),
        ])  # fmt: skip
    return table(["choosing", "of the full prefill", "of the prefill with Random"], rows)


def generation_table(models: Mapping[str, Any]) -> str:
    """Time to the first token and tokens per second, against the full model."""
    head = [
        "model", "schedule", "first token, published", "FLOPs with the vision tower", "FLOPs", "first token, CPU clock",
        "wall clock", "tokens per second, published", "CPU clock", "wall clock",
    ]  # fmt: skip
    rows = []
    for model, part in models.items():
        cases, decoder, tower = part["cases"], part["real decoder FLOPs"], part["real tower FLOPs"]
        full = TABLE_4[model][0]
        for name, published in zip(("FastV, layer 2", "three cuts"), TABLE_4[model][1:], strict=True):
            case = cases[name]
            whole = (case["FLOPs"] * decoder + tower) / (decoder + tower)
            rows.append([
                model, name, number(published[0] / full[0], 2), number(whole), number(case["FLOPs"]),
                *(interval(ratio(case, cases["full"], clock, "first")) for clock in clocks(case["first"])),
                number(published[1] / full[1], 2),
                *(interval(ratio(cases["full"], case, clock, "rest")) for clock in clocks(case["first"])),
            ])  # fmt: skip
        again = cases["full again"]
        rows.append([
            model, "full again", "", "", "",
            *(interval(ratio(again, cases["full"], clock, "first")) for clock in clocks(again["first"])), "",
            *(interval(ratio(cases["full"], again, clock, "rest")) for clock in clocks(again["first"])),
        ])  # fmt: skip
    return table(head, rows)


def mob_table(cases: Cases) -> str:
    """MoB's settings for LLaVA-NeXT and how much faster the prefill is."""
    rows = []
    for name, published in MOB.items():
        faster = ratio(cases["full"], cases[name])
        rows.append([
            name, number(published), number(cases[name]["FLOPs"]), number(cases[name]["KV"]),
            interval(ratio(cases[name], cases["full"])), interval(faster),
        ])  # fmt: skip
    return table(["setting", "FLOPs, published", "FLOPs", "KV", "time, CPU clock", "times as fast"], rows)


def seconds(case: Mapping[str, Any], clock: str = "cpu", part: str = "seconds") -> Any:
    return np.array(case[part].get(clock, case[part]["wall"]))


def ratio(case: Mapping[str, Any], other: Mapping[str, Any], clock: str = "cpu", part: str = "seconds") -> Interval:
    """Median of the ratios within rounds."""
    return bootstrap_median(seconds(case, clock, part) / seconds(other, clock, part))


def clocks(times: Mapping[str, Sequence[float]]) -> list[str]:
    """CPU time first."""
    return sorted(times)


def number(value: float | bool | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if value else ""


def interval(values: Interval | None, *, percent: bool = False) -> str:
    if values is None:
        return ""
    if percent:
        return "{:.2f} % [{:.2f}, {:.2f}]".format(*(100 * value for value in values))
    return "{:.3f} [{:.3f}, {:.3f}]".format(*values)
