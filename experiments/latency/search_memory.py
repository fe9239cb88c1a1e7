"""Memory of the search on a model of 7 billion weights: does it fit a GPU of 80 GB?

OMP_NUM_THREADS=1 python -m experiments.latency.search_memory
OMP_NUM_THREADS=1 python -m experiments.latency.search_memory --with-arithmetic 4

The second command takes one step of the first model as it is, weights, arithmetic and all, with so many layers. All 32
of LLaVA-1.5-7B want 18 GB of memory.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from experiments.latency.budgets import Keep
from experiments.latency.hollow import NoArithmetic, build
from experiments.latency.shapes import NARROW, SHAPES, Shape
from vispco.cost import DecoderShape
from vispco.engine import Replay, observed_attention
from vispco.engine.losses import relaxed_losses
from vispco.evaluation import Evaluator, Ledger, TeacherBatch
from vispco.profiling import peak_bytes
from vispco.selectors import make_selector
from vispco.state import State

FOLDER = Path(__file__).parent
DTYPE = torch.bfloat16
GIB = 2**30
GPU = 80e9 / GIB
"""GiB of the GPU that the search has to fit."""
WAYS = ("graph of the whole batch", "parts", "parts, MLPs twice")
ANSWERS = 3
"""Rows that are read: an answer of two tokens, and its end."""
SAMPLES = 200
"""Of a search."""
BATCH, SCHEDULES = 4, 9
"""Samples of a step, and schedules that are trained together."""
MODELS = {"LLaVA-1.5-7B": WAYS[1:], "LLaVA-NeXT-7B": ()}
"""Models, and ways that are counted at the real depth too."""
DEPTHS = (2, 4, 6)


class Bench:
    """A model, one captured batch of it, and unpruned log-probabilities; see :mod:`experiments.latency.hollow`.

    Parameters
    ----------
    shape : Shape
    layers, batch : int
    hollow : bool
        Without weights and arithmetic; else with both.
    """

    def __init__(self, shape: Shape, layers: int, batch: int, *, hollow: bool = True, dtype: torch.dtype = DTYPE):
        self.shape = replace(shape, text={**shape.text, "num_hidden_layers": layers}, vision=NARROW)
        self.model = build(self.shape, dtype) if hollow else self.shape.build("cpu", dtype)
        self.replay = Replay(self.model, make_selector("fastv"))
        inputs = self.shape.inputs("cpu", dtype)
        with observed_attention(self.replay.family):
            self.captured = self.replay.capture(inputs).select(torch.zeros(batch, dtype=torch.long))
        self.rows = self.captured.query[:, None] - torch.arange(ANSWERS).flip(0)
        words = self.model.config.get_text_config().vocab_size
        self.teacher = torch.zeros(batch, ANSWERS, words).log_softmax(-1)

    def divergence(self, samples: Tensor, logits: Tensor) -> Tensor:
        """KL(unpruned || pruned) per sample."""
        teacher = self.teacher[samples]
        return (teacher.exp() * (teacher - logits.float().log_softmax(-1))).sum(-1).mean(-1)

    def step(self, keep: Keep, way: str, schedules: int = 1, temperature: float = 0.1) -> Tensor:
        """Gradient of the mean KL in the ratios of schedules that are all ``keep``, shape (schedules, layers)."""
        ratios = torch.tensor([keep] * schedules, requires_grad=True)
        with observed_attention(self.replay.family):
            if way == WAYS[0]:
                logits = self.replay.relaxed(self.captured, ratios, self.rows, temperature=temperature)
                every = torch.arange(len(self.rows))
                losses = torch.stack([self.divergence(every, each) for each in logits])
            else:
                losses = relaxed_losses(
                    self.replay, self.captured, ratios, self.rows, self.divergence, temperature=temperature,
                    recompute=way == WAYS[2],
                )  # fmt: skip
            losses.mean().backward()
        assert ratios.grad is not None
        return ratios.grad

    def evaluate(self, keep: Keep) -> None:
        """What an evaluator does with the batch to measure one schedule, tokens dropped."""
        batch = TeacherBatch(
            self.captured, self.rows, torch.zeros_like(self.rows), self.teacher, torch.zeros(len(self.rows))
        )
        evaluator = Evaluator.__new__(Evaluator)  # its own start wants a processor
        evaluator.model, evaluator.replay, evaluator.ledger = self.model, self.replay, Ledger()
        evaluator.batches = [batch]
        evaluator.shape, evaluator.samples = DecoderShape.of(self.model.config), [None] * len(self.rows)
        evaluator._stops, evaluator.official = torch.tensor([2]), None
        evaluator.state, evaluator._about = State(), ""
        evaluator.selector_name, evaluator.selector_params = "", {}
        evaluator.evaluate([keep])


def peak(shape: Shape, layers: int, batch: int, way: str, keep: Keep, schedules: int = 1) -> int:
    """Most bytes of a step beyond weights and captured inputs."""
    bench = Bench(shape, layers, batch)
    with NoArithmetic():
        return peak_bytes(partial(bench.step, keep, way, schedules), "cpu")


def held_bytes(bench: Bench) -> dict[str, int]:
    """Bytes that a captured batch holds, by part; layers share tensors."""
    tensors = {"hidden states": [bench.captured.hidden], "masks": [], "tables": []}
    for layer in bench.captured.arguments:
        tensors["masks"].append(layer.get("attention_mask"))
        tensors["tables"] += [*layer["position_embeddings"], layer.get("position_ids")]
    found = {}
    for name, parts in tensors.items():
        storages = {
            part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in parts if part is not None
        }
        found[name] = sum(storages.values())
    return {**found, "teacher": bench.teacher.nbytes}


def line(points: dict[int, int], layers: int) -> dict[str, float]:
    """GiB at ``layers`` on the line through three points, bytes by layers, and how far they are from a line.

    ``off`` is the middle point's distance from the line through the outer two, as a fraction.
    """
    depths, values = np.array(list(points)), np.array(list(points.values()), dtype=float)
    slope, start = np.polyfit(depths, values, 1)
    middle = np.interp(depths[1], depths[[0, 2]], values[[0, 2]])
    return {
        "per layer GiB": float(slope / GIB),
        "at depth GiB": float((start + slope * layers) / GIB),
        "off": float(abs(values[1] / middle - 1)),
    }


def worst(layers: int, ratio: float = 0.95) -> Keep:
    """A schedule whose gradient goes through all layers but the first, and hardly a token leaves."""
    return (1.0,) + (ratio,) * (layers - 1)


def measure(shape: Shape, depths: Sequence[int] = DEPTHS, whole: Sequence[str] = WAYS) -> dict[str, Any]:
    """All figures of one model.

    Parameters
    ----------
    shape : Shape
    depths : sequence of int
        Three numbers of layers.
    whole : sequence of str
        Ways that are also counted at the real depth.
    """
    layers = shape.text["num_hidden_layers"]
    meta = shape.build("meta", DTYPE)
    result: dict[str, Any] = {
        "name": shape.name,
        "layers": layers,
        "tokens": shape.tokens,
        "weights GiB": sum(part.numel() * part.element_size() for part in meta.parameters()) / GIB,
        "held per sample": held_bytes(Bench(shape, 1, 1)),
        "steps": [],
    }
    for way in WAYS:
        points = {depth: peak(shape, depth, 1, way, worst(depth)) for depth in depths}
        step = {"way": way, "points": points, **line(points, layers)}
        if way in whole:
            # In one graph samples and schedules add up; in parts they take turns, and only their inputs add up.
            step["of a batch"] = peak(shape, depths[0], 2, way, worst(depths[0]), 2) / points[depths[0]]
            step["counted GiB"] = peak(shape, layers, 1, way, worst(layers)) / GIB
        result["steps"].append(step)
    # At the real depth itself: the walk's peak is a maximum of several, and no line for few layers.
    bench = Bench(shape, layers, 1)
    with NoArithmetic():
        result["evaluation per sample GiB"] = peak_bytes(partial(bench.evaluate, worst(layers)), "cpu") / GIB
    return result


def table(results: dict[str, Any]) -> str:
    """What is in memory, by part."""
    lines = [
        "| | " + " | ".join(model["name"] for model in results["models"]) + " |",
        "|---|" + "---:|" * len(results["models"]),
    ]

    def row(name: str, cells: Sequence[str]) -> None:
        lines.append(f"| {name} | {' | '.join(cells)} |")

    models = results["models"]
    row("tokens of a prompt", [str(sum(model["tokens"][:2])) for model in models])
    row("weights, bfloat16, GiB", [f"{model['weights GiB']:.2f}" for model in models])
    for part in ("hidden states", "teacher"):
        cells = [f"{SAMPLES * model['held per sample'][part] / GIB:.2f}" for model in models]
        row(f"{part} of {SAMPLES} samples, GiB", cells)
    masks = [f"{SAMPLES * sum(model['tokens'][:2]) ** 2 / GIB:.2f}" for model in models]
    row(f"masks of {SAMPLES} samples in ragged batches, GiB", masks)
    for index, way in enumerate(WAYS):
        steps = [model["steps"][index] for model in models]
        many = SCHEDULES * BATCH if index == 0 else 1
        name = f"{SCHEDULES} schedules on {BATCH} samples" if index == 0 else "one schedule on one sample"
        cells = [
            f"{many * step['at depth GiB']:.2f}"
            + (f" ({many * step['counted GiB']:.2f})" if "counted GiB" in step else "")
            for step in steps
        ]
        row(f"step, {way}: {name}, GiB (counted at the real depth)", cells)
        row("its points' distance from a line", [f"{step['off']:.0e}" for step in steps])
    row(
        "evaluation of a batch, per sample, GiB",
        [f"{model['evaluation per sample GiB']:.3f}" for model in models],
    )
    totals = [total(model) for model in models]
    row(f"weights, {SAMPLES} samples and a step in parts, GiB", [f"{value:.1f}" for value in totals])
    row(f"of {GPU:.1f} GiB", ["fits" if value < GPU else "does not fit" for value in totals])
    row("samples that can be evaluated at once", [str(fitting(model)) for model in models])
    return "\n".join(lines)


def held(model: dict[str, Any]) -> float:
    """GiB of weights and of all that an evaluator keeps of its samples."""
    sample = sum(model["held per sample"].values()) + sum(model["tokens"][:2]) ** 2
    return float(model["weights GiB"] + SAMPLES * sample / GIB)


def total(model: dict[str, Any]) -> float:
    """GiB of a search that takes its steps in parts."""
    inputs = BATCH * model["held per sample"]["hidden states"] / GIB
    return held(model) + inputs + float(model["steps"][1]["at depth GiB"])


def fitting(model: dict[str, Any]) -> int:
    """Samples that can be evaluated at once."""
    return int((GPU - held(model)) / model["evaluation per sample GiB"])


def with_arithmetic(shape: Shape, layers: int) -> dict[str, float]:
    """One step in parts with weights and arithmetic, and what was counted without."""
    start = time.process_time()
    bench = Bench(shape, layers, 1, hollow=False)
    built = time.process_time()
    counted = peak_bytes(partial(bench.step, worst(layers), WAYS[1]), "cpu")
    found = {"bytes": counted, "build s": built - start, "step s": time.process_time() - built}
    del bench
    found["without arithmetic, bytes"] = peak(shape, layers, 1, WAYS[1], worst(layers))
    return {**found, "resident GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-arithmetic", type=int, metavar="LAYERS", help="one true step of the first model")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {
        "dtype": str(DTYPE).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if options.with_arithmetic:
        shape = SHAPES[next(iter(MODELS))]
        layers = options.with_arithmetic
        results |= {"model": shape.name, "layers": layers, **with_arithmetic(shape, layers)}
        name = "search_memory_with_arithmetic"
    else:
        results["models"] = []
        for model, whole in MODELS.items():
            results["models"].append(measure(SHAPES[model], DEPTHS, whole))
            print(results["models"][-1], flush=True)
        name = "search_memory"
    out = options.out or FOLDER / "results" / f"{name}.json"
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1) if options.with_arithmetic else table(results))


if __name__ == "__main__":
    main()
