"""How well a latency table predicts: random schedules that calibration never saw, predicted and measured.

OMP_NUM_THREADS=1 python -m experiments.latency.model --preset micro-llava
python -m experiments.latency.model --preset gpu
python -m experiments.latency.model --tables-only
"""

import argparse
import gc
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Gemma3Config,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from experiments.engine.models import (
    IMAGE,
    LLAMA_7B,
    QWEN_7B,
    SMALL,
    TEXT_TOKENS,
    TINY,
    Parts,
    Workload,
    llava,
    qwen2_5_vl,
)
from experiments.selectors.page import rewrite, table
from vispco import ModelCard, PruningConfig, prune
from vispco.cost import FlopCost
from vispco.cost.latency import LatencyCost
from vispco.cost.table import LatencyTable
from vispco.data import load_samples
from vispco.embedded import locate
from vispco.engine.families import describe
from vispco.frontier import kendall_tau
from vispco.profiling import time_pairs
from vispco.profiling.calibration import calibrate, calibrate_for, inputs_of
from vispco.profiling.plan import Prompt
from vispco.selectors import make_selector

FOLDER = Path(__file__).parent
PAGE = FOLDER / "model.md"

SCHEDULES = 50
SEED = 0
SELECTORS = ("random", "fastv", "sparsevlm", "divprune")
"""Schedules take turns with them: free, one row of attention, many rows, and token against token."""

BOUNDS = {"median error": 0.05, "worst error": 0.15, "tau": 0.9}


@dataclass(frozen=True)
class Scene:
    """A model with a prompt, and the table of its times.

    Attributes
    ----------
    model
    inputs : mapping
        Of ``generate``: equal prompts.
    make_table : callable
        Calibrates.
    """

    model: Any
    inputs: Mapping[str, Tensor]
    make_table: Callable[..., LatencyTable]


def micro_llava(batch: int) -> Scene:
    """The embedded model on prompts of shapes world, in batches."""
    folder = locate("micro-llava")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval().requires_grad_(False)
    processor = AutoProcessor.from_pretrained(folder)
    samples = load_samples("shapes", "validation", 20, seed=7)
    inputs = inputs_of(model, processor, samples[:1] * batch)
    return Scene(model, inputs, partial(calibrate_for, model, processor, samples, batch=batch))


def random_weights(workload: Workload, device: str, dtype: torch.dtype) -> Scene:
    """A model from its configuration, on one prompt."""
    model, inputs, _ = workload.build(device, dtype)
    model.generation_config.eos_token_id = None
    return Scene(model, inputs, partial(calibrate, model, [inputs], batch=1))


def gemma3(hidden: int, layers: int, side: int, images: int, window: int) -> Parts:
    """Gemma 3: every third layer has full attention, the others a sliding window; images see both ways."""
    heads = hidden // 64 or 1
    types = ["sliding_attention", "sliding_attention", "full_attention"] * (layers // 3)
    text = Gemma3TextConfig(
        hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2), head_dim=hidden // heads, vocab_size=1024, sliding_window=window,
        max_position_embeddings=8192, layer_types=types,
    )  # fmt: skip
    tower = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, image_size=4 * side,
        patch_size=2, vision_use_head=False,
    )  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=tower, mm_tokens_per_image=side * side, image_token_index=IMAGE,
        boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    tokens = images * side * side
    words = TEXT_TOKENS // 2
    blocks = torch.cat([torch.zeros(words), torch.ones(tokens), torch.zeros(words)]).long()[None]
    pixels = torch.randn(images, 3, 4 * side, 4 * side)
    return Parts(config, tokens, {"pixel_values": pixels, "token_type_ids": blocks})


@dataclass(frozen=True)
class Preset:
    """What is measured, and how long."""

    scene: Callable[[], Scene]
    title: str
    seconds: float = 60.0
    pairs: int = 12
    schedules: int = SCHEDULES
    clock: str = "cpu"
    drift: float = 0.25


CPU = ("cpu", torch.float32)
GPU = ("cuda", torch.bfloat16)
PRESETS = {
    "micro-llava": Preset(partial(micro_llava, 32), "micro LLaVA, batches of 32", pairs=25),
    "llava": Preset(
        partial(random_weights, Workload("LLaVA", partial(llava, SMALL, 1, 24)), *CPU),
        "LLaVA, 8 layers, 256 wide, 576 visual tokens",
    ),
    "gemma3": Preset(
        partial(random_weights, Workload("Gemma 3", partial(gemma3, 128, 9, 12, 2, 96)), *CPU),
        "Gemma 3, 9 layers, 128 wide, windows of 96, 288 visual tokens",
        seconds=45.0, pairs=20,
    ),
    "gpu-llava": Preset(
        partial(random_weights, Workload("LLaVA-1.5", partial(llava, LLAMA_7B, 1, 24)), *GPU),
        "LLaVA-1.5-7B, 576 visual tokens",
        clock="wall",
    ),
    "gpu-qwen": Preset(
        partial(random_weights, Workload("Qwen2.5-VL", partial(qwen2_5_vl, QWEN_7B, 32, 40)), *GPU),
        "Qwen2.5-VL-7B, 1 280 visual tokens",
        clock="wall",
    ),
    "rehearsal": Preset(
        partial(random_weights, Workload("LLaVA", partial(llava, TINY, 1, 6)), *CPU),
        "LLaVA in small", seconds=0.0, pairs=2, schedules=4, drift=math.inf,
    ),
}  # fmt: skip
"""``rehearsal`` runs what the others run, so small that its figures mean nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--out", type=Path, help="results, by default results/model_PRESET.json")
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose tables are written anew")
    parser.add_argument("--tables-only", action="store_true", help="write the page from results that are there")
    options = parser.parse_args(arguments)
    if not options.tables_only:
        if options.preset is None:
            parser.error("give --preset")
        # One thread: cores that others use too make the speed of several threads a matter of luck.
        torch.set_num_threads(1)
        out = options.out or FOLDER / "results" / f"model_{options.preset}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(measure(PRESETS[options.preset]), indent=1) + "\n")
    rewrite(options.page, tables(FOLDER / "results"))


def measure(preset: Preset) -> dict[str, Any]:
    """Calibrate, then predict and measure every schedule."""
    scene = preset.scene()
    gc.freeze()  # what the imports left is no garbage, and looking through it takes longer than many a call
    model, device = scene.model, scene.model.device.type
    family = describe(model)
    batch = len(scene.inputs["input_ids"])
    prompt = Prompt.of(family, scene.inputs, batch)
    chosen = {name: {} for name in SELECTORS}
    latency = scene.make_table(chosen, clock=preset.clock, seconds=preset.seconds, drift=preset.drift)
    tokens = [(prompt.text, prompt.visual, prompt.images)]
    forward = partial(model.generate, **scene.inputs, do_sample=False, max_new_tokens=1)
    rows = []
    noise = time_pairs(forward, nullcontext, nullcontext, device, preset.pairs, 3)
    for number, (layers, keep) in enumerate(random_schedules(len(family.layers), prompt.visual, preset.schedules)):
        selector = SELECTORS[number % len(SELECTORS)]
        config = PruningConfig(
            selector=selector, keep=keep, model=ModelCard(type=model.config.model_type, layers=len(keep))
        )
        timed = time_pairs(forward, nullcontext, partial(prune, model, config), device, preset.pairs, 1)
        row = {
            "selector": selector,
            "cuts": {str(layer): round(keep[layer], 4) for layer in layers},
            "predicted": round(LatencyCost(model.config, tokens, latency, selector).exact(keep), 4),
            "FLOPs": round(FlopCost(model.config, tokens, make_selector(selector).flops).exact(keep), 4),
            "measured": {clock: rounded(pairs.ratio()) for clock, pairs in timed.items()},
            "ms": {clock: [round(1e3 * float(np.median(side)), 3) for side in (pairs.stock, pairs.ours)]
                   for clock, pairs in timed.items()},
        }  # fmt: skip
        rows.append(row)
        print(number, selector, row["predicted"], row["FLOPs"], row["measured"][preset.clock][0], flush=True)
    return {
        "title": preset.title,
        "clock": preset.clock,
        "pairs": preset.pairs,
        "prompt": {"text": prompt.text, "visual": prompt.visual},
        "key": latency.key.model_dump(),
        "protocol": latency.protocol.model_dump(),
        "noise": {clock: rounded(pairs.ratio()) for clock, pairs in noise.items()},
        "rows": rows,
        "table": json.loads(latency.to_json()),
    }


def rounded(interval: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in interval]


def random_schedules(layers: int, visual: int, number: int) -> list[tuple[list[int], tuple[float, ...]]]:
    """Layers of the cuts, and the schedule: 1 to 4 cuts before any layers but the first, to any ratios."""
    draw = np.random.default_rng(SEED)
    found = []
    while len(found) < number:
        cuts = sorted(draw.choice(np.arange(1, layers), size=draw.integers(1, min(4, layers - 1) + 1), replace=False))
        counts = np.sort(draw.choice(np.arange(1, visual), size=len(cuts), replace=False))[::-1]
        keep = [1.0] * layers
        for cut, count in zip(cuts, counts, strict=True):
            keep[cut:] = [float(count) / visual] * (layers - cut)
        found.append(([int(cut) for cut in cuts], tuple(keep)))
    return found


def statistics(predicted: Sequence[float], measured: Sequence[float], resamples: int = 2000) -> dict[str, list[float]]:
    """Errors relative to what was measured, and rank correlation, each with its bootstrap interval over schedules.

    Of few schedules a draw may be all the same, which have no order; it is left out.
    """
    ours, true = np.array(predicted), np.array(measured)
    draws = np.random.default_rng(0).integers(0, len(ours), size=(resamples, len(ours)))
    errors = np.abs(ours / true - 1.0)

    def interval(value: float, drawn: Sequence[float]) -> list[float]:
        return [value, *(float(edge) for edge in np.quantile(drawn, [0.025, 0.975]))]

    return {
        "median error": interval(float(np.median(errors)), np.median(errors[draws], axis=1).tolist()),
        "worst error": interval(float(errors.max()), errors[draws].max(axis=1).tolist()),
        "tau": interval(
            kendall_tau(ours, true),
            [kendall_tau(ours[draw], true[draw]) for draw in draws if np.ptp(ours[draw]) * np.ptp(true[draw]) > 0],
        ),
        "bias": interval(float(np.median(ours / true - 1.0)), np.median((ours / true - 1.0)[draws], axis=1).tolist()),
    }


def tables(folder: Path) -> dict[str, str]:
    """The page's tables, from all results that are there."""
    columns = ["median error", "worst error", "Kendall tau", "bias"]
    errors, flops = [], []
    for name in PRESETS:
        path = folder / f"model_{name}.json"
        if not path.exists():
            continue
        results = json.loads(path.read_text())
        measured = [row["measured"][results["clock"]][0] for row in results["rows"]]
        of_table, of_flops = (
            statistics([row[key] for row in results["rows"]], measured) for key in ("predicted", "FLOPs")
        )
        noise = number(results["noise"][results["clock"]])
        errors.append([results["title"], str(results["pairs"]), *written(of_table), noise])
        flops.append([results["title"], *written(of_flops)])
    return {
        "errors": table(["model", "pairs", *columns, "stock against itself"], errors),
        "flops": table(["model", *columns], flops),
    }


def written(found: Mapping[str, Sequence[float]]) -> list[str]:
    """A row of :func:`statistics`."""
    return [share(found["median error"]), share(found["worst error"]), number(found["tau"]), share(found["bias"])]


def share(interval: Sequence[float]) -> str:
    value, low, high = (f"{100 * edge:.1f}" for edge in interval)
    return f"{value} % [{low}, {high}]"


def number(interval: Sequence[float]) -> str:
    value, low, high = (f"{edge:.3f}" for edge in interval)
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
