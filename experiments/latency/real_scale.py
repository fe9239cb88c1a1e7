"""What budgets cost at real scale: FLOPs, key/value cache and peak memory, held against PyTorch's own counter.

python -m experiments.latency.real_scale

Models are on the meta device, where operations have shapes and no numbers, so any machine will do.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from experiments.latency.budgets import PLANS, Keep, Plan
from experiments.latency.shapes import SHAPES, Shape
from vispco.cost import DecodeFlopCost, FlopCost, KvCost, PeakCost, count_flops
from vispco.engine.families import describe
from vispco.errors import BudgetError
from vispco.profiling import LiveBytes

FOLDER = Path(__file__).parent
BUDGETS = (0.5, 0.3)
DTYPE = torch.bfloat16
NEW_TOKENS = 128
"""Of an answer."""
STEPS = 2
"""Decoding steps that are held against the counter."""
GIB = 2**30


def measure(shape: Shape, budgets: Sequence[float] = BUDGETS, plans: dict[str, Plan] = PLANS) -> dict[str, Any]:
    """All costs of one shape."""
    model = shape.build("meta", DTYPE)
    layers = len(describe(model).layers)
    rows = [{"plan": "unpruned", "budget": 1.0, **costs(model, shape, (1.0,) * layers, 0)}]
    for budget in budgets:
        for name, plan in plans.items():
            cost = FlopCost(model.config, [shape.tokens], selection=plan.rows)
            row: dict[str, Any] = {"plan": name, "budget": budget}
            try:
                row |= costs(model, shape, plan.at(budget, cost), plan.rows)
            except BudgetError as error:
                row["unreachable"] = str(error)
            rows.append(row)
    text, visual, images, _ = shape.tokens
    return {
        "name": shape.name,
        "checkpoint": shape.checkpoint,
        "layers": layers,
        "text tokens": text,
        "visual tokens": visual,
        "images": images,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "published parameters": shape.parameters,
        "weights GiB": sum(part.numel() * part.element_size() for part in model.parameters()) / GIB,
        "rows": rows,
    }


def costs(model: Any, shape: Shape, keep: Keep, rows: int) -> dict[str, Any]:
    """Costs of one schedule, and how far the meta device's own accounts are from them."""
    config, kind = model.config, shape.tokens
    flops, decode = FlopCost(config, [kind], selection=rows), DecodeFlopCost(config, [kind], NEW_TOKENS)
    kv, peak = KvCost(config, [kind], DTYPE), PeakCost(config, [kind], DTYPE)
    prompt = kv.prompts[0]
    counts = prompt.counts(keep)
    found = account(model, prompt.total, [prompt.text + count for count in counts])
    # The meta device runs layers, no selector.
    ours = count_flops(config, *kind[:2], keep, 0, prompt.images).total
    steps = DecodeFlopCost(config, [kind], STEPS).amount(keep)
    return {
        "mean tokens kept": sum(counts) / len(counts),
        "last tokens": counts[-1],
        "prefill TFLOPs": flops.amount(keep) / 1e12,
        "prefill ratio": flops.exact(keep),
        "decode TFLOPs": decode.amount(keep) / 1e12,
        "decode ratio": decode.exact(keep),
        "KV GiB": kv.amount(keep) / GIB,
        "KV ratio": kv.exact(keep),
        "peak GiB": peak.amount(keep) / GIB,
        "peak ratio": peak.exact(keep),
        "prefill over counter": ours / found["prefill"],
        "decode over counter": steps / found["decode"],
        "KV bytes off": kv.amount(keep) - found["KV bytes"],
        "KV storage over bytes": found["KV storage"] / found["KV bytes"],
        "peak over account": peak.amount(keep) / found["peak"],
    }


@torch.no_grad()
def account(model: Any, prompt: int, tokens: Sequence[int]) -> dict[str, float]:
    """What operations on the meta device add up to when layer l runs ``tokens[l]`` of the prompt's tokens.

    Returns
    -------
    dict
        FLOPs of ``prefill``, with logits of the last position, and of ``decode``, :data:`STEPS` tokens. Bytes of the
        cache's tensors (``KV bytes``) and of the storages that these are views of (``KV storage``), after the prefill.
        ``peak``: most bytes alive during the prefill.
    """
    family = describe(model)
    text: Any = family.decoder.config

    def embeddings(number: int) -> Tensor:
        return torch.empty(1, number, text.hidden_size, dtype=DTYPE, device="meta")

    def prefill() -> DynamicCache:
        given, cache = embeddings(prompt), DynamicCache(config=text)
        hidden = family.decoder(inputs_embeds=given, past_key_values=cache, use_cache=True).last_hidden_state
        family.logits(hidden[:, -1:])
        return cache

    # The unpruned model is the stock decoder as it is.
    with shortened(family.layers, tokens) if min(tokens) < prompt else nullcontext():
        with FlopCounterMode(display=False) as counter:
            cache = prefill()
        with fused_attention(), LiveBytes() as live:
            prefill()
    parts = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    found = {
        "prefill": counter.get_total_flops(),
        "peak": live.peak,
        "KV bytes": sum(part.numel() * part.element_size() for part in parts),
        "KV storage": sum(part.untyped_storage().nbytes() for part in parts),
    }
    with shortened(family.layers, [1] * len(family.layers)), FlopCounterMode(display=False) as counter:
        for _ in range(STEPS):
            step = family.decoder(inputs_embeds=embeddings(1), past_key_values=cache, use_cache=True)
            family.logits(step.last_hidden_state)
    return {**found, "decode": counter.get_total_flops()}


@contextmanager
def shortened(layers: nn.ModuleList, tokens: Sequence[int]) -> Iterator[None]:
    """Inside the block layer l gets the first ``tokens[l]`` tokens; one token of a decoding step gets no mask."""

    def shorten(number: int) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden, mask = args[0], kwargs.get("attention_mask")
            if hidden.shape[1] > number:
                hidden = hidden[:, :number].contiguous()
            tables = tuple(table[..., :number, :] for table in kwargs["position_embeddings"])
            if mask is not None:
                mask = mask[..., :number, :number] if number > 1 else None
            return (hidden, *args[1:]), {**kwargs, "position_embeddings": tables, "attention_mask": mask}

        return hook

    hooks = [
        layer.register_forward_pre_hook(shorten(number), with_kwargs=True)
        for layer, number in zip(layers, tokens, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def fused_attention() -> Iterator[None]:
    """Inside the block attention makes its output and nothing else, as fused kernels do; scores cannot be counted.

    The meta device has no fused kernel, and would count scores of all heads.
    """

    def attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        return torch.empty_like(query)

    with patch("torch.nn.functional.scaled_dot_product_attention", attention):
        yield


def table(results: dict[str, Any]) -> str:
    """Every schedule as a row."""
    lines = [
        "| model | budget | schedule | tokens, mean (last) | prefill TFLOPs | ratio | decode ratio | KV GiB | KV ratio "
        "| peak GiB | peak ratio |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for shape in results["shapes"]:
        for row in shape["rows"]:
            start = f"| {shape['name']} | {row['budget']:g} | {row['plan']} |"
            if "unreachable" in row:
                lines.append(f"{start} out of reach | | | | | | | |")
                continue
            lines.append(
                f"{start} {row['mean tokens kept']:.0f} ({row['last tokens']}) "
                f"| {row['prefill TFLOPs']:.3f} | {row['prefill ratio']:.3f} | {row['decode ratio']:.3f} "
                f"| {row['KV GiB']:.3f} | {row['KV ratio']:.3f} | {row['peak GiB']:.3f} | {row['peak ratio']:.3f} |"
            )
    return "\n".join(lines)


def checks(results: dict[str, Any]) -> str:
    """How far the costs are from the counter, by shape: the worst of its schedules."""
    lines = [
        "| model | layers | tokens | parameters | published | weights GiB | prefill off | decode off | KV bytes off "
        "| KV storage / bytes | estimated / counted peak |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for shape in results["shapes"]:
        rows = [row for row in shape["rows"] if "unreachable" not in row]

        def worst(key: str, neutral: float = 1.0, rows: list[dict[str, Any]] = rows) -> float:
            return max((row[key] - neutral for row in rows), key=abs)

        published = "equal" if shape["published parameters"] == shape["parameters"] else "not found"
        peaks = sorted(row["peak over account"] for row in rows)
        storage = max(row["KV storage over bytes"] for row in rows)
        prefill, decode = worst("prefill over counter"), worst("decode over counter")
        lines.append(
            f"| {shape['name']} | {shape['layers']} | {shape['text tokens']} + {shape['visual tokens']} "
            f"| {shape['parameters']:,} | {published} | {shape['weights GiB']:.2f} | {prefill:.2g} "
            f"| {decode:.2g} | {worst('KV bytes off', 0.0):g} | {storage:.3f} "
            f"| {peaks[0]:.3f} to {peaks[-1]:.3f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER / "results" / "real_scale.json")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {
        "dtype": str(DTYPE).removeprefix("torch."),
        "new tokens": NEW_TOKENS,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "shapes": [measure(shape) for shape in SHAPES.values()],
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(checks(results), table(results), sep="\n\n")


if __name__ == "__main__":
    main()
