"""Time and memory of one search step against an unpruned forward of the same batch.

OMP_NUM_THREADS=1 python -m experiments.search_step.benchmark
"""

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig

from vispco import count_flops
from vispco.engine import Replay, observed_attention
from vispco.engine.losses import relaxed_losses
from vispco.profiling import Pairs, peak_bytes, seconds
from vispco.selectors import make_selector

FOLDER = Path(__file__).parent
IMAGE = 9
MIB = 2**20
SHAPE = {
    "num_hidden_layers": 8, "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8,
    "intermediate_size": 688, "vocab_size": 1024,
}  # fmt: skip
SCHEDULES = {
    "0.9": (1.0, 1.0, 0.95, 0.95, 0.95, 0.75, 0.75, 0.75),
    "0.6": (1.0, 1.0, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3),
    "0.4": (1.0, 1.0, 0.25, 0.25, 0.25, 0.04, 0.04, 0.04),
    "0.25": (1.0, 0.25, 0.25, 0.05, 0.05, 0.05, 0.05, 0.05),
    "0.9, cut at layer 1": (1.0, 0.95, 0.95, 0.95, 0.8, 0.8, 0.8, 0.8),
}
"""Two cuts each, by the budget that they are within."""
WAYS = ("graph of the whole batch", "parts", "parts, MLPs twice")


class Bench:
    """A random model, one captured batch with the unpruned log-probabilities, and the two things to compare."""

    def __init__(self, side: int, text: int, batch: int, shape: dict[str, int]):
        torch.manual_seed(0)
        vision = CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, projection_dim=16,
            image_size=2 * side, patch_size=2,
        )  # fmt: skip
        config = LlavaConfig(
            vision_config=vision, text_config=LlamaConfig(**shape), image_token_index=IMAGE, vision_feature_layer=-1
        )
        self.model: Any = AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False)
        ids = torch.randint(10, shape["vocab_size"], (batch, side * side + text))
        ids[:, text // 2 : text // 2 + side * side] = IMAGE
        pixels = torch.randn(batch, 3, 2 * side, 2 * side)
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        self.replay = Replay(self.model, make_selector("fastv"))
        self.weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        with observed_attention(self.replay.family):
            self.captured = self.replay.capture(self.inputs)
            self.rows = self.captured.query[:, None]
            self.teacher = self.replay.run(self.captured, (1.0,) * self.replay.layers, self.rows).log_softmax(-1)

    def stock(self, *, gradients: bool = False) -> Tensor:
        """The stock forward, logits of the last position only."""
        with torch.set_grad_enabled(gradients):
            logits: Tensor = self.model(**self.inputs, use_cache=False, logits_to_keep=1).logits
        return logits

    def divergence(self, samples: Tensor, logits: Tensor) -> Tensor:
        """KL(unpruned || pruned) per sample."""
        teacher = self.teacher[samples]
        return (teacher.exp() * (teacher - logits.log_softmax(-1))).sum(-1).mean(-1)

    def step(self, keep: Sequence[float], temperature: float, way: str) -> Tensor:
        """Gradient of the mean KL in the ratios of one schedule, shape (layers,)."""
        ratios = torch.tensor([keep], requires_grad=True)
        with observed_attention(self.replay.family):
            if way == WAYS[0]:
                logits = self.replay.relaxed(self.captured, ratios, self.rows, temperature=temperature)[0]
                losses = self.divergence(torch.arange(len(logits)), logits)
            else:
                losses = relaxed_losses(
                    self.replay, self.captured, ratios, self.rows, self.divergence, temperature=temperature,
                    recompute=way == WAYS[2],
                )  # fmt: skip
            losses.mean().backward()
        assert ratios.grad is not None
        return ratios.grad[0]


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """All cases; in every round each runs once, in the same order, beside the stock forward of that round."""
    stock = bench.stock
    stock()
    peak = peak_bytes(stock, "cpu")
    cases: list[dict[str, Any]] = [{"case": "stock, gradients on"}, {"case": "stock again"}]
    calls: list[Callable[[], Tensor]] = [partial(stock, gradients=True), stock]
    text = bench.inputs["input_ids"].shape[1] - int(bench.captured.visual_tokens[0])
    for name, keep in SCHEDULES.items():
        cost = count_flops(bench.model.config, text, int(bench.captured.visual_tokens[0]), keep, selection=1).ratio
        for temperature in (0.1, 0.01):
            for way in WAYS if temperature == 0.1 else WAYS[1:2]:
                cases.append(
                    {"case": name, "FLOPs": round(cost, 3), "temperature": temperature, "way": way, "keep": keep}
                )
                calls.append(partial(bench.step, keep, temperature, way))
    times: list[list[float]] = [[] for _ in calls]
    reference: list[float] = []
    for case, call in zip(cases, calls, strict=True):  # also the warm-up
        ours = peak_bytes(call, "cpu")
        case["memory"] = round(ours / peak, 3)
        case["memory with weights"] = round((ours + bench.weights) / (peak + bench.weights), 3)
    for _ in range(rounds):
        reference.append(seconds(stock, "cpu")["cpu"])
        for call, own in zip(calls, times, strict=True):
            own.append(seconds(call, "cpu")["cpu"])
    for case, own in zip(cases, times, strict=True):
        case["time"] = [round(value, 3) for value in Pairs(reference, own).ratio()]
    return {
        "stock ms": round(1e3 * float(np.median(reference)), 1),
        "stock peak MiB": round(peak / MIB, 2),
        "weights MiB": round(bench.weights / MIB, 2),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cases": cases,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rehearsal", action="store_true", help="a tiny model")
    parser.add_argument("--out", type=Path, default=FOLDER / "results.json")
    options = parser.parse_args(arguments)
    gc.freeze()  # what the imports left is no garbage, and looking through it takes longer than a call
    small = {**SHAPE, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 48}
    bench = Bench(6, 10, 2, small) if options.rehearsal else Bench(24, 40, 4, SHAPE)
    results = measure(bench, options.rounds)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def table(results: dict[str, Any]) -> str:
    """Every case as a row."""
    lines = [
        "| schedule within | FLOPs | temperature | way | time | peak, weights on both sides | peak beyond weights |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for case in results["cases"]:
        middle, low, high = case["time"]
        lines.append(
            f"| {case['case']} | {case.get('FLOPs', 1.0)} | {case.get('temperature', '')} | {case.get('way', '')} "
            f"| {middle:.2f} ({low:.2f}..{high:.2f}) | {case['memory with weights']:.2f} | {case['memory']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
