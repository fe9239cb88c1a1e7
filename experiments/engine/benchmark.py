"""Time and memory of a pruned prefill against the stock one, in one process.

python -m experiments.engine.benchmark --preset cpu --out experiments/engine/results/cpu.json
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

from experiments.engine.models import PRESETS, TEXT_TOKENS, Preset, Workload
from vispco import ModelCard, PruningConfig, count_flops, prune
from vispco.cost import FlopReport
from vispco.profiling import Side, peak_bytes, seconds, time_pairs, wait_for

CUT = 2
"""Layer of FastV's cut."""

BUDGET = 0.5
MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=3, help="pairs that are not counted")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    results = {"preset": options.preset, "environment": environment(preset), "pairs": options.pairs, "workloads": []}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # What the imports left is no garbage, and looking through it before every call takes longer than a call.
    gc.freeze()
    for workload in preset.workloads:
        results["workloads"].append(measure(workload, preset, options.pairs, options.warm_up))
        options.out.write_text(json.dumps(results, indent=2) + "\n")


def environment(preset: Preset) -> dict[str, Any]:
    """What the figures depend on."""
    cuda = preset.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "dtype": str(preset.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@torch.no_grad()
def measure(workload: Workload, preset: Preset, pairs: int, warm_up: int) -> dict[str, Any]:
    """All cases of one model and prompt."""
    device = preset.device
    model, inputs, visual = workload.build(device, preset.dtype)
    # As `generate` calls it: with a cache, and logits of the last position only.
    forward = partial(model, **inputs, use_cache=True, logits_to_keep=1)
    for _ in range(warm_up):
        seconds(forward, device)
    peak = peak_bytes(forward, device)
    result: dict[str, Any] = {
        "model": workload.name,
        "layers": model.config.get_text_config().num_hidden_layers,
        "attention": model.config.get_text_config()._attn_implementation,
        "text tokens": TEXT_TOKENS,
        "visual tokens": visual,
        "time outside the decoder": round(time_outside_decoder(model, forward, device), 4),
        "stock peak MiB": round(peak / MIB, 3),
        "cases": [],
    }
    print(f"\n{workload.name}, {visual} visual tokens, {result['time outside the decoder']:.1%} outside the decoder")
    for name, keep in {"stock against itself": None, **schedules(model.config, visual)}.items():
        case: dict[str, Any] = {"case": name}
        ours: Side = partial(nullcontext)
        if keep is not None:
            config = PruningConfig(
                selector="fastv", keep=keep, model=ModelCard(type=model.config.model_type, layers=len(keep))
            )
            ours = partial(prune, model, config)
            case |= work(model.config, visual, keep)
            with ours() as pruned:
                case["memory ratio"] = round(peak_bytes(forward, device) / peak, 4)
            case["kept"] = pruned.kept_counts[:, 0].tolist()
        timed = time_pairs(forward, partial(nullcontext), ours, device, pairs, warm_up)
        for clock, both in timed.items():
            case[f"{clock} time ratio"] = {key: round(value, 4) for key, value in both.ratio()._asdict().items()}
            case[f"{clock} ms"] = [round(1e3 * median(side), 2) for side in (both.stock, both.ours)]
            case[f"{clock} drift of stock"] = round(both.drift(), 4)
        result["cases"].append(case)
        ratios = ", ".join(f"{clock} {both.ratio().value:.3f}" for clock, both in timed.items())
        print(f"  {name}: time {ratios}; memory {case.get('memory ratio', 1.0)}; FLOPs {case.get('FLOPs ratio', 1.0)}")
    return result


def time_outside_decoder(model: Any, forward: Callable[[], Any], device: str, calls: int = 5) -> float:
    """Share of a stock prefill before and after the decoder: vision tower, embeddings, logits."""
    inside: list[float] = []

    def start(*_: Any) -> None:
        wait_for(device)
        inside.append(-time.perf_counter())

    def stop(*_: Any) -> None:
        wait_for(device)
        inside[-1] += time.perf_counter()

    decoder = model.get_decoder()
    hooks = [decoder.register_forward_pre_hook(start), decoder.register_forward_hook(stop)]
    whole = [seconds(forward, device)["wall"] for _ in range(calls)]
    for hook in hooks:
        hook.remove()
    return median(1 - part / all_ for part, all_ in zip(inside, whole, strict=True))


def schedules(config: Any, visual: int) -> dict[str, tuple[float, ...]]:
    """The schedules that are measured, by name."""
    layers = config.get_text_config().num_hidden_layers

    def one_cut(ratio: float) -> tuple[float, ...]:
        return (1.0,) * CUT + (ratio,) * (layers - CUT)

    def three_cuts(ratio: float) -> tuple[float, ...]:
        return tuple(ratio ** (4 * layer // layers) for layer in range(layers))

    return {
        "keep everything": (1.0,) * layers,
        "drop one token": one_cut((visual - 1) / visual),
        "half of the FLOPs, one cut": at_budget(one_cut, config, visual),
        "half of the FLOPs, three cuts": at_budget(three_cuts, config, visual),
    }


def at_budget(shape: Callable[[float], tuple[float, ...]], config: Any, visual: int) -> tuple[float, ...]:
    """The largest schedule of a one-parameter family that costs at most half of the unpruned prefill."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if flops(config, visual, shape(middle)).ratio <= BUDGET:
            low = middle
        else:
            high = middle
    assert low > 0.0, f"{visual} visual tokens are too few to halve the cost of this prefill"
    return shape(low)


def flops(config: Any, visual: int, keep: Sequence[float]) -> FlopReport:
    """FLOPs of the prefill, FastV's scores included."""
    return count_flops(config, TEXT_TOKENS, visual, keep, selection=1)


def work(config: Any, visual: int, keep: Sequence[float]) -> dict[str, float]:
    """Three predictions of the time ratio, each from what time might be proportional to."""
    pruned, whole = (flops(config, visual, ratios) for ratios in (keep, (1.0,) * len(keep)))
    causal, full = (report.total - report.attention / 2 for report in (pruned, whole))
    return {
        "FLOPs ratio": round(pruned.ratio, 4),
        "FLOPs ratio, causal attention": round(causal / full, 4),
        "token ratio": round(pruned.mlp / whole.mlp, 4),
    }


if __name__ == "__main__":
    main()
