"""How much of the FLOPs that are saved is time that is saved, for every family.

OMP_NUM_THREADS=1 python -m experiments.latency.delivered --preset cpu
OMP_NUM_THREADS=1 python -m experiments.latency.delivered --preset cpu --engine
python -m experiments.latency.delivered --preset gpu

The second command measures what the engine itself takes of the same prefills.
"""

import argparse
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import transformers

from experiments.latency.budgets import PLANS, Keep
from experiments.latency.real_scale import shortened
from experiments.latency.shapes import SHAPES, Shape
from vispco import ModelCard, PruningConfig, prune
from vispco.cost import FlopCost, Prompt, count_flops
from vispco.engine.families import describe
from vispco.engine.hooks import Hook
from vispco.engine.prefill import Prefill
from vispco.profiling import Side, clocks, seconds, time_pairs, wait_for

FOLDER = Path(__file__).parent
BUDGETS = (0.5, 0.3)
CUTS = ("one cut at layer 2", "three cuts")
BOUND = 1.1
"""Of time over FLOPs; what is above it is taken apart."""


@dataclass(frozen=True)
class Preset:
    """What is measured on which kind of device."""

    device: str
    dtype: torch.dtype
    shapes: tuple[Shape, ...]


def reduced(layers: int, hidden: int, tokens: int) -> tuple[Shape, ...]:
    """Every shape in small."""
    return tuple(shape.reduced(layers, hidden, tokens) for shape in SHAPES.values())


PRESETS = {
    "cpu": Preset("cpu", torch.float32, reduced(10, 512, 576)),
    "gpu": Preset("cuda", torch.bfloat16, tuple(SHAPES.values())),
    "rehearsal": Preset("cpu", torch.float32, reduced(10, 64, 576)),
}
"""``rehearsal`` runs what ``gpu`` runs on models so small that their figures mean nothing."""

LENGTHS = (64, 96, 160, 320, 640)
"""Tokens at which the stock layers of the first model are timed."""


@torch.no_grad()
def measure(shape: Shape, preset: Preset, pairs: int, warm_up: int, *, noise: bool = True) -> dict[str, Any]:
    """All cases of one shape; with ``noise`` the stock model against itself too."""
    device = preset.device
    model, inputs = shape.build(device, preset.dtype), shape.inputs(device, preset.dtype)
    # As `generate` calls it: with a cache, and logits of the last position only.
    forward = partial(model, **inputs, use_cache=True, logits_to_keep=1)
    for _ in range(warm_up):
        seconds(forward, device)
    result: dict[str, Any] = {
        "name": shape.name,
        "layers": model.config.get_text_config().num_hidden_layers,
        "tokens": shape.tokens,
        "cases": [],
    }
    if noise:
        result["ms by tokens"] = by_tokens(model, shape, device, pairs)
    print(f"\n{shape.name}, {shape.tokens[1]} visual tokens")
    schedules = {name: keep for name, keep in cases(model.config, shape).items() if noise or keep is not None}
    for name, keep in schedules.items():
        side: Side = partial(nullcontext)
        if keep is not None:
            card = ModelCard(type=model.config.model_type, layers=len(keep))
            side = partial(prune, model, PruningConfig(selector="fastv", keep=keep, model=card))
        timed = time_pairs(forward, partial(nullcontext), side, device, pairs, warm_up)
        case: dict[str, Any] = {"case": name, **work(model.config, shape, keep)}
        for clock, both in timed.items():
            case[f"{clock} time ratio"] = {key: round(value, 4) for key, value in both.ratio()._asdict().items()}
            case[f"{clock} ms"] = [round(1e3 * median(seconds_), 2) for seconds_ in (both.stock, both.ours)]
            case[f"{clock} drift of stock"] = round(both.drift(), 4)
        if keep is not None and case[f"{clock_of(device)} time ratio"]["value"] > BOUND * case["FLOPs ratio"]:
            case["without the engine"] = without_engine(model, forward, shape, keep, device, pairs, warm_up)
        result["cases"].append(case)
        ratios = ", ".join(f"{clock} {both.ratio().value:.3f}" for clock, both in timed.items())
        print(f"  {name}: FLOPs {case['FLOPs ratio']:.3f}; time {ratios}", flush=True)
    return result


def clock_of(device: str) -> str:
    """The clock that counts: on a machine that others use, a process waits for its turn."""
    return "wall" if device == "cuda" else "cpu"


def cases(config: Any, shape: Shape) -> dict[str, Keep | None]:
    """Schedules by name; None is the stock model against itself."""
    cost = FlopCost(config, [shape.tokens], selection=1)
    schedules: dict[str, Keep | None] = {"stock against itself": None}
    for budget in BUDGETS:
        for name in CUTS:
            schedules[f"{budget:.0%} of the FLOPs, {name}"] = PLANS[name].at(budget, cost)
    return schedules


def work(config: Any, shape: Shape, keep: Keep | None) -> dict[str, float]:
    """What time might be proportional to: FLOPs, those of causal attention, and tokens."""
    if keep is None:
        return {"FLOPs ratio": 1.0, "causal ratio": 1.0, "token ratio": 1.0}
    text, visual, images, question = shape.tokens
    pruned, whole = (
        count_flops(config, text, visual, ratios, 1, images, question) for ratios in (keep, (1.0,) * len(keep))
    )
    causal, full = (report.total - report.attention / 2 for report in (pruned, whole))
    return {"FLOPs ratio": pruned.ratio, "causal ratio": causal / full, "token ratio": pruned.mlp / whole.mlp}


def without_engine(
    model: Any, forward: Callable[[], Any], shape: Shape, keep: Keep, device: str, pairs: int, warm_up: int
) -> dict[str, float]:
    """Time ratio of the stock model whose layers are handed the first tokens, as many as the schedule keeps.

    Nothing is scored, chosen, put back or remembered there: what it takes is what kernels take at such numbers.
    """
    text, visual, images, question = shape.tokens
    counts = Prompt(text, visual, images, question).counts(keep)
    layers = describe(model).layers
    tokens = [text + count for count in counts]
    timed = time_pairs(forward, partial(nullcontext), partial(shortened, layers, tokens), device, pairs, warm_up)
    return {key: round(value, 4) for key, value in timed[clock_of(device)].ratio()._asdict().items()}


@torch.no_grad()
def engine_shares(shape: Shape, preset: Preset, repeats: int) -> dict[str, Any]:
    """Share of the pruned prefill's time that passes in the engine: median over calls, by case."""
    device = preset.device
    model, inputs = shape.build(device, preset.dtype), shape.inputs(device, preset.dtype)
    forward = partial(model, **inputs, use_cache=True, logits_to_keep=1)
    result: dict[str, Any] = {"name": shape.name, "cases": {}}
    for name, keep in cases(model.config, shape).items():
        if keep is None:
            continue
        card = ModelCard(type=model.config.model_type, layers=len(keep))
        with prune(model, PruningConfig(selector="fastv", keep=keep, model=card)), timed_engine(device) as spent:
            seconds(forward, device)
            own, whole = [], []
            for _ in range(repeats):
                spent.clear()
                whole.append(seconds(forward, device)[clock_of(device)])
                own.append(sum(spent))
        share = median(part / all_ for part, all_ in zip(own, whole, strict=True))
        result["cases"][name] = {"engine ms": round(1e3 * median(own), 2), "share": round(share, 4)}
    print(result, flush=True)
    return result


@contextmanager
def timed_engine(device: str) -> Iterator[list[float]]:
    """Inside the block seconds of every hook, and of every look at a layer's attention."""
    clock, spent = clocks(device)[clock_of(device)], list[float]()

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            wait_for(device)
            start = clock()
            output = function(*args, **kwargs)
            wait_for(device)
            spent.append(clock() - start)
            return output

        return call

    with (
        patch.object(Hook, "__call__", timed(Hook.__call__)),
        patch.object(Prefill, "observe", timed(Prefill.observe)),
    ):
        yield spent


def shares(results: dict[str, Any]) -> str:
    """The engine's share of every case."""
    names = list(results["shapes"][0]["cases"])
    lines = [f"| model | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for shape in results["shapes"]:
        cells = [f"{case['engine ms']:.1f} ms, {case['share']:.1%}" for case in shape["cases"].values()]
        lines.append(f"| {shape['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_tokens(model: Any, shape: Shape, device: str, repeats: int) -> dict[int, float]:
    """Milliseconds of one stock layer on as many tokens: the median forward of the decoder alone, over its layers."""
    family = describe(model)
    width = family.decoder.config.hidden_size
    result = {}
    for length in LENGTHS:
        given = torch.randn(1, length, width, device=device, dtype=model.dtype)
        forward = partial(family.decoder, inputs_embeds=given, use_cache=True)
        seconds(forward, device)
        times = [seconds(forward, device)[clock_of(device)] for _ in range(repeats)]
        result[length] = round(1e3 * median(times) / len(family.layers), 4)
    return result


def table(results: dict[str, Any]) -> str:
    """Delivered over ideal: time ratio over FLOPs ratio of every case."""
    clock = clock_of(results["device"])
    lines = [
        "| model | visual tokens | case | FLOPs | causal FLOPs | tokens | time | time / FLOPs | time / causal FLOPs |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for shape in results["shapes"]:
        for case in shape["cases"]:
            middle, low, high = case[f"{clock} time ratio"].values()
            ideal = case["FLOPs ratio"]
            lines.append(
                f"| {shape['name']} | {shape['tokens'][1]} | {case['case']} | {ideal:.3f} | {case['causal ratio']:.3f} "
                f"| {case['token ratio']:.3f} | {middle:.3f} [{low:.3f}, {high:.3f}] | {middle / ideal:.3f} "
                f"[{low / ideal:.3f}, {high / ideal:.3f}] | {middle / case['causal ratio']:.3f} |"
            )
    return "\n".join(lines)


def explanation(results: dict[str, Any]) -> str:
    """Every case above the bound: what is left of it without the engine."""
    clock = clock_of(results["device"])
    lines = [
        "| model | case | time | without the engine | its time / FLOPs | engine |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for shape in results["shapes"]:
        for case in shape["cases"]:
            if "without the engine" in case:
                ours, bare = case[f"{clock} time ratio"]["value"], case["without the engine"]
                lines.append(
                    f"| {shape['name']} | {case['case']} | {ours:.3f} "
                    f"| {bare['value']:.3f} [{bare['low']:.3f}, {bare['high']:.3f}] "
                    f"| {bare['value'] / case['FLOPs ratio']:.3f} | {ours / bare['value'] - 1:+.1%} |"
                )
    return "\n".join(lines)


def lengths(results: dict[str, Any]) -> str:
    """Time of one stock layer, and of one of its tokens, by how many run."""
    times = {int(length): time for length, time in results["shapes"][0]["ms by tokens"].items()}
    most = max(times)
    lines = ["| tokens | ms of a layer | time of a token, against the longest |", "|---:|---:|---:|"]
    for length, time in times.items():
        lines.append(f"| {length} | {time:.2f} | {time / length / (times[most] / most):.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=1, help="pairs that are not counted")
    parser.add_argument("--engine", action="store_true", help="the engine's share instead")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    name = "delivered_engine" if options.engine else "delivered"
    out = options.out or FOLDER / "results" / f"{name}_{options.preset}.json"
    cuda = preset.device == "cuda"
    results: dict[str, Any] = {
        "preset": options.preset,
        "device": preset.device,
        "name": torch.cuda.get_device_name() if cuda else f"cpu, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "dtype": str(preset.dtype).removeprefix("torch."),
        "pairs": options.pairs,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "shapes": [],
    }
    # What the imports left is no garbage, and looking through it before every call takes longer than a call.
    gc.freeze()
    if options.engine:
        results["shapes"] = [engine_shares(shape, preset, options.pairs) for shape in preset.shapes]
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(shares(results))
        return
    for shape in preset.shapes:
        first = not results["shapes"]
        results["shapes"].append(measure(shape, preset, options.pairs, options.warm_up, noise=first))
        out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results), explanation(results), lengths(results), sep="\n\n")


if __name__ == "__main__":
    main()
