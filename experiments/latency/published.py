"""Published tables of time rebuilt: LLaVA-NeXT from 2 880 tokens to 320, VisPCO's Table 4, MoB's speed-up.

python -m experiments.latency.published --preset cpu
python -m experiments.latency.published --page-only
"""

import argparse
import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from experiments.latency.published_page import PAGE, tables
from experiments.latency.shapes import SHAPES, Shape
from experiments.selectors.page import dump, rewrite
from vispco import ModelCard, PruningConfig, count_flops, prune
from vispco.cost import KvCost
from vispco.profiling import seconds, time_generation, time_rounds
from vispco.selectors import make_selector

FOLDER = Path(__file__).parent

PAPER_TOKENS = 2880
"""Visual tokens of LLaVA-NeXT as papers count them, without the newlines of the large image."""

Keep = tuple[float, ...]
Rows = dict[str, dict[str, Any]]
Sides = dict[str, Callable[[], AbstractContextManager[Any]]]


@dataclass(frozen=True)
class Case:
    """A method under a schedule.

    Attributes
    ----------
    name, selector : str
    cuts : dict of int to float
        Share of the visual tokens from each layer on.
    params : dict
        Of the selector.
    dense : bool
        Attention of every layer as a matrix of probabilities (``eager``), as published code has it.
    """

    name: str
    selector: str
    cuts: Mapping[int, float]
    params: Mapping[str, Any] = field(default_factory=dict)
    dense: bool = False

    def keep(self, layers: int) -> Keep:
        """The schedule."""
        ratios = [1.0]
        for layer in range(1, layers):
            ratios.append(self.cuts.get(layer, ratios[-1]))
        return tuple(ratios)

    def config(self, config: Any) -> PruningConfig:
        """For a model of this Hugging Face configuration."""
        layers = config.get_text_config().num_hidden_layers
        card = ModelCard(type=config.model_type, layers=layers)
        return PruningConfig(
            selector=self.selector, selector_params=dict(self.params), keep=self.keep(layers), model=card
        )

    def flops(self, config: Any, tokens: Sequence[int]) -> float:
        """Share of the unpruned prefill's FLOPs, choosing tokens included."""
        text, visual, images, question = tokens
        keep = self.keep(config.get_text_config().num_hidden_layers)
        chooser = make_selector(self.selector, self.params)
        return count_flops(config, text, visual, keep, chooser.flops, images, question).ratio

    def kv(self, config: Any, tokens: tuple[int, ...]) -> float:
        """Share of the unpruned cache's bytes."""
        keep = self.keep(config.get_text_config().num_hidden_layers)
        return KvCost(config, [tokens], torch.float32).exact(keep)


def next_cases(config: Any, tokens: Sequence[int], easier: float = 1.0) -> list[Case]:
    """LLaVA-NeXT's methods, each at the layers that its paper cuts at, at the published share of this model's FLOPs.

    The 320 tokens that the published table is about are a mean over layers, so counts after a cut follow from the
    FLOPs: FastV keeps one number, SparseVLM falls as its own 66 : 30 : 17 of 576 does and once more, MustDrop halves.
    ``easier`` multiplies the shares.
    """

    def sparse(share: float) -> Case:
        falls = {3: 1.0, 7: 30 / 66, 16: 17 / 66, 20: 17 / 66 * 17 / 30}
        return Case("SparseVLM", "sparsevlm", {layer: share * fall for layer, fall in falls.items()})

    def must(share: float) -> Case:
        return Case("MustDrop", "mustdrop", {3: share, 7: share / 2, 11: share / 4, 15: share / 8})

    one = at_flops(config, tokens, 0.128 * easier, lambda share: Case("FastV", "fastv", {2: share}))
    falling = at_flops(config, tokens, 0.156 * easier, sparse)
    halving = at_flops(config, tokens, 0.115 * easier, must)
    return [
        one,
        Case("Random, as FastV", "random", one.cuts),
        Case("MoB, as FastV", "mob", one.cuts, {"preset": "weak"}),
        falling,
        Case("SparseVLM with recycling", "sparsevlm_recycling", falling.cuts),
        Case("Random, as SparseVLM", "random", falling.cuts),
        halving,
        Case("Random, as MustDrop", "random", halving.cuts),
        *(replace(case, name=f"{case.name}, dense", dense=True) for case in (one, falling, halving)),
        *(
            Case(f"MoB, {count} at layer 2", "mob", {2: count / PAPER_TOKENS}, {"preset": "weak"})
            for count in (320, 640, 960)
        ),
    ]


def half_cases(config: Any, tokens: Sequence[int]) -> list[Case]:
    """Half of this model's FLOPs by FastV's cut, and by three cuts as a learned multi-step schedule has them."""
    layers = config.get_text_config().num_hidden_layers
    steps = [layers * step // 4 for step in (1, 2, 3)]

    def three(share: float) -> Case:
        return Case("three cuts", "fastv", {layer: share**power for power, layer in enumerate(steps, 1)})

    return [
        at_flops(config, tokens, 0.5, lambda share: Case("FastV, layer 2", "fastv", {2: share})),
        at_flops(config, tokens, 0.5, three),
    ]


def at_flops(config: Any, tokens: Sequence[int], ratio: float, case: Callable[[float], Case]) -> Case:
    """The largest case of a one-parameter family that costs at most ``ratio`` of the FLOPs."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if case(middle).flops(config, tokens) <= ratio:
            low = middle
        else:
            high = middle
    assert low > 0.0, f"no tokens are left at {ratio} of the FLOPs"
    return case(low)


TABLE_4 = {
    "Qwen2.5-VL-3B": replace(SHAPES["Qwen2.5-VL-3B"], grid=(24, 24)),
    "LLaVA-1.5-7B": SHAPES["LLaVA-1.5-7B"],
    "Gemma3-4B": replace(SHAPES["Gemma3-4B"], images=1),
}
"""One image each; 576 tokens for Qwen2.5-VL, with which it costs the 3.6 TFLOPs that the paper has for it."""


@dataclass(frozen=True)
class Preset:
    """What is measured, where and how often.

    Attributes
    ----------
    rounds, answers, warm_up : int
        Rounds of prefills, of answers, and before either that do not count.
    new_tokens : int
        Decoded after the first one, for tokens per second; the paper does not say how many it took.
    easier : float
        Factor of the published shares of FLOPs, for prompts that are mostly text.
    """

    device: str
    dtype: torch.dtype
    scale: Callable[[Shape], Shape]
    rounds: int
    answers: int
    warm_up: int
    new_tokens: int = 32
    easier: float = 1.0


def _width(shape: Shape, hidden: int, tokens: int = 10**6, most_layers: int = 10**6) -> Shape:
    return shape.reduced(min(shape.text["num_hidden_layers"], most_layers), hidden, tokens)


PRESETS = {
    "cpu": Preset("cpu", torch.float32, partial(_width, hidden=512), rounds=6, answers=10, warm_up=1),
    "gpu": Preset("cuda", torch.bfloat16, lambda shape: shape, rounds=20, answers=20, warm_up=3),
    "rehearsal": Preset(
        "cpu",
        torch.float32,
        partial(_width, hidden=128, tokens=300),
        rounds=1,
        answers=1,
        warm_up=0,
        new_tokens=2,
        easier=3.0,
    ),
}
"""``cpu``: real depth and tokens, width 512; ``gpu``: real models; ``rehearsal``: real depth, every code path."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--out", type=Path, help="results, by default results/published_PRESET.json")
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose tables are written anew; cpu results only")
    parser.add_argument("--only", choices=("prefill", "generation"), help="measure this part and keep the other")
    parser.add_argument("--page-only", action="store_true", help="write the page from results that are there")
    options = parser.parse_args(arguments)
    out = options.out or FOLDER / "results" / f"published_{options.preset}.json"
    if not options.page_only:
        # One thread: cores that others use too make the speed of several threads a matter of luck.
        torch.set_num_threads(1)
        out.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(out.read_text()) if options.only else {}
        parts = [options.only] if options.only else ["prefill", "generation"]
        out.write_text(dump(before | measure(options.preset, parts), depth=4))
    if options.preset == "cpu":
        rewrite(options.page, tables(json.loads(out.read_text())))


@torch.no_grad()
def measure(name: str, parts: Sequence[str]) -> dict[str, Any]:
    """LLaVA-NeXT's prefill, the answers of Table 4's models, or both."""
    preset = PRESETS[name]
    cuda = preset.device == "cuda"
    gc.freeze()  # what the imports left is no garbage, and looking through it before every call takes time
    results: dict[str, Any] = {
        "preset": name,
        "environment": {
            "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.backends.cpu.get_cpu_capability()}",
            "threads": torch.get_num_threads(),
            "dtype": str(preset.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    if "prefill" in parts:
        results["prefill"] = measure_prefill(preset)
    if "generation" in parts:
        results["generation"] = {name: measure_generation(preset, shape) for name, shape in TABLE_4.items()}
    return results


def measure_prefill(preset: Preset) -> dict[str, Any]:
    """LLaVA-NeXT: prefill times of all methods in the same rounds."""
    shape = preset.scale(SHAPES["LLaVA-NeXT-7B"])
    config, tokens = shape.config, shape.tokens
    model, inputs = shape.build(preset.device, preset.dtype), shape.inputs(preset.device, preset.dtype)
    cases, counts = next_cases(config, tokens, preset.easier), {}
    sides = _sides(model, cases, counts)
    forward = partial(model, **inputs, use_cache=True, logits_to_keep=1)
    found = time_rounds(partial(seconds, forward, preset.device), sides, preset.rounds, preset.warm_up)
    rows: Rows = {name: {"seconds": _by_clock(times)} for name, times in found.items()}
    _describe(rows, cases, counts, config, tokens)
    return {"model": shape.name, "layers": shape.text["num_hidden_layers"], "tokens": tokens, "cases": rows}


def measure_generation(preset: Preset, real: Shape) -> dict[str, Any]:
    """Time to the first token and of those after it, of one of Table 4's models."""
    shape = preset.scale(real)
    model, inputs = shape.build(preset.device, preset.dtype), shape.inputs(preset.device, preset.dtype)
    cases, counts = half_cases(shape.config, shape.tokens), {}
    sides = _sides(model, cases, counts)
    found = time_rounds(
        partial(time_generation, model, inputs, preset.new_tokens), sides, preset.answers, preset.warm_up
    )
    rows: Rows = {
        name: {part: _by_clock([getattr(each, part) for each in times]) for part in ("first", "rest")}
        for name, times in found.items()
    }
    _describe(rows, cases, counts, shape.config, shape.tokens)
    whole = count_flops(real.config, *real.tokens[:2], (1.0,) * real.text["num_hidden_layers"])
    return {
        "model": shape.name,
        "layers": shape.text["num_hidden_layers"],
        "tokens": shape.tokens,
        "new tokens": preset.new_tokens,
        "real decoder FLOPs": whole.total,
        "real tower FLOPs": tower_flops(real),
        "cases": rows,
    }


def _describe(rows: Rows, cases: Sequence[Case], counts: dict[str, list[int]], config: Any, tokens: Any) -> None:
    """Add to every case's row what it kept, from each layer on where that changes, and what it should cost."""
    for case in cases:
        row, kept = rows[case.name], counts[case.name]
        row["kept"] = {layer: n for layer, n in enumerate(kept) if layer == 0 or n < kept[layer - 1]}
        row |= {"FLOPs": case.flops(config, tokens), "KV": case.kv(config, tokens)}


def _sides(model: Any, cases: Sequence[Case], counts: dict[str, list[int]]) -> Sides:
    """The stock model first, cases after it; ``counts`` gets how many tokens every case kept."""

    @contextmanager
    def side(case: Case, config: PruningConfig) -> Iterator[None]:
        with _attention(model, "eager" if case.dense else "sdpa"), prune(model, config) as pruned:
            yield
            counts[case.name] = pruned.kept_counts[:, 0].tolist()

    stock = {"full": nullcontext, "full again": nullcontext}
    return {**stock, **{case.name: partial(side, case, case.config(model.config)) for case in cases}}


@contextmanager
def _attention(model: Any, backend: str) -> Iterator[None]:
    model.set_attn_implementation({"text_config": backend})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})


def _by_clock(times: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {clock: [round(each[clock], 5) for each in times] for clock in times[0]}


def tower_flops(shape: Shape) -> float:
    """FLOPs of a real vision tower for one image, matrix products alone; windows of attention as the model has them."""
    vision = shape.vision
    if "depth" in vision:
        # Qwen2.5-VL: four patches per token, a gated MLP, attention within windows but in some layers.
        tokens, layers, width, mlp, branches = (
            4 * shape.grid[0] * shape.grid[1], vision["depth"], vision["hidden_size"], vision["intermediate_size"], 3
        )  # fmt: skip
        whole = len(vision["fullatt_block_indexes"])
        window = (vision["window_size"] // vision["patch_size"]) ** 2
    else:
        layers, width, mlp, branches = (
            vision["num_hidden_layers"], vision["hidden_size"], vision["intermediate_size"], 2
        )  # fmt: skip
        if "image_size" in vision:  # Siglip
            tokens = (vision["image_size"] // vision["patch_size"]) ** 2
        else:  # CLIP, of which the last layer but one is used
            tokens, layers = shape.grid[0] ** 2 + 1, layers - 1
        whole, window = layers, tokens
    linear = 2 * tokens * width * (4 * width + branches * mlp)
    return float(layers * linear + 4 * tokens * width * (whole * tokens + (layers - whole) * window))


if __name__ == "__main__":
    main()
