"""How much cheaper is evaluating schedules together, and what keeping unpruned answers saves.

    OMP_NUM_THREADS=1 python -m experiments.evaluation.study

Times are of one process; rounds take turns between what is compared. CPU time stands beside wall time: on a machine
that others use, it is the steadier one.
"""

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vispco.data import load_samples
from vispco.engine import load_checkpoint, observed_attention
from vispco.evaluation import Evaluator, TeacherCache, prepare
from vispco.schedule import keep_counts
from vispco.search import monotone_schedules

HERE = Path(__file__).parent
LADDER = (1.0, 0.5, 0.25, 0.1, 0.03)
Schedules = Sequence[tuple[float, ...]]


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a call."""
    start = time.perf_counter(), time.process_time()
    run()
    return {"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}


def in_turns(rounds: int, **runs: Callable[[], Any]) -> dict[str, list[dict[str, float]]]:
    """Seconds of every round."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(timed(run))
    return times


def charged(evaluator: Evaluator, run: Callable[[], Any]) -> float:
    """Forwards of one sample that a call is charged with."""
    before = evaluator.ledger.forwards
    run()
    return evaluator.ledger.forwards - before


def one_by_one_forwards(evaluator: Evaluator, schedules: Schedules) -> float:
    """What all schedules would be charged with if each ran alone, from their counts."""

    def charge() -> None:
        for batch in evaluator.batches:
            start = evaluator.replay.start(batch.captured)
            for schedule in schedules:
                for kept in keep_counts(schedule, start.counts, start.floor):
                    evaluator.charge_layer(batch, kept)

    return charged(evaluator, charge)


def prefix_sharing(evaluator: Evaluator, schedules: Schedules, subset: int, rounds: int, seed: int = 0) -> dict:
    """All schedules as one tree, against one by one; a random subset is timed alone and scaled up by FLOPs."""
    chosen = np.random.default_rng(seed).choice(len(schedules), size=min(subset, len(schedules)), replace=False)
    some = [schedules[index] for index in chosen]

    def tree() -> None:
        evaluator.evaluate(schedules)

    def alone() -> None:
        for schedule in some:
            evaluator.evaluate([schedule])

    single = one_by_one_forwards(evaluator, schedules)
    scale = single / one_by_one_forwards(evaluator, some)
    forwards = charged(evaluator, tree)
    times = in_turns(rounds, tree=tree, alone=alone)
    pairs = list(zip(times["tree"], times["alone"], strict=True))
    factors = {clock: [scale * one[clock] / all_[clock] for all_, one in pairs] for clock in ("wall", "cpu")}
    return {
        "samples": len(evaluator.samples),
        "schedules": len(schedules),
        "timed alone": len(some),
        "scaled by": scale,
        "forwards per sample, tree": forwards / len(evaluator.samples),
        "forwards per sample, one by one": single / len(evaluator.samples),
        "factor in FLOPs": single / forwards,
        "factor in wall time": median(factors["wall"]),
        "factor in CPU time": median(factors["cpu"]),
        "factors of the rounds": factors,
        "seconds of the tree": {clock: median(t[clock] for t in times["tree"]) for clock in ("wall", "cpu")},
    }


def repeated(evaluator: Evaluator, copies: int) -> Evaluator:
    """The samples of every batch ``copies`` times, in one batch."""
    wide = copy.copy(evaluator)
    wide.samples = [*evaluator.samples] * copies
    wide.batches = [batch.select(torch.arange(len(batch.rows)).repeat(copies)) for batch in evaluator.batches]
    return wide


def batching(
    model: Any, processor: Any, samples: Sequence[Any], schedules: Schedules, copies: int, rounds: int
) -> dict[str, Any]:
    """The most that running ``copies`` schedules of equal counts as one batch could win, on few samples.

    The samples stand ``copies`` times in one batch, so that nothing is padded and nothing is put together: the time of
    that many walks over the time of this one.
    """
    narrow = Evaluator(model, processor, samples, batch_size=len(samples))
    wide = repeated(narrow, copies)
    wide.evaluate(schedules[:1])  # the first run of all is slower
    times = in_turns(rounds, narrow=lambda: narrow.evaluate(schedules), wide=lambda: wide.evaluate(schedules))
    pairs = list(zip(times["narrow"], times["wide"], strict=True))
    return {
        "samples": len(samples),
        "copies": copies,
        "bound": {clock: median(copies * few[clock] / many[clock] for few, many in pairs) for clock in ("wall", "cpu")},
    }


def sizes(evaluator: Evaluator) -> dict[str, float]:
    """Bytes held per sample: inputs of the first layer, the rest of what is captured, unpruned answers."""
    seen: set[int] = set()

    def size(value: Any) -> int:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            new = storage.data_ptr() not in seen
            seen.add(storage.data_ptr())
            return storage.nbytes() if new else 0
        if isinstance(value, dict):
            return sum(map(size, value.values()))
        return sum(map(size, value)) if isinstance(value, tuple) else 0

    number = len(evaluator.samples)
    hidden = sum(size(batch.captured.hidden) for batch in evaluator.batches)
    rest = sum(size(tuple(vars(batch.captured).values())) for batch in evaluator.batches)
    answers = sum(size(batch.teacher) for batch in evaluator.batches)
    return {"hidden": hidden / number, "other inputs": rest / number, "unpruned answers": answers / number}


def caching(model: Any, processor: Any, samples: Sequence[Any], rounds: int) -> dict:
    """Seconds that an evaluator takes to be made, without a cache, filling one, and with hits; and their parts."""
    with tempfile.TemporaryDirectory() as folder:
        full = TeacherCache(Path(folder) / "full")
        Evaluator(model, processor, samples, cache=full)
        emptied = TeacherCache(Path(folder) / "emptied", limit=0)  # every file goes again as soon as it is written
        times = in_turns(
            rounds,
            without=lambda: Evaluator(model, processor, samples),
            filling=lambda: Evaluator(model, processor, samples, cache=emptied),
            hit=lambda: Evaluator(model, processor, samples, cache=full),
        )
        files = sum(path.stat().st_size for path in full.folder.iterdir())
    evaluator = Evaluator(model, processor, samples)
    replay, [batch, *_] = evaluator.replay, evaluator.batches
    part = samples[: len(batch.rows)]
    prompts = prepare(processor, part)
    with observed_attention(replay.family), torch.no_grad():
        parts = in_turns(
            rounds,
            processor=lambda: prepare(processor, part),
            vision=lambda: replay.capture(prompts.inputs, prompts.query),
            decoder=lambda: replay.run(batch.captured, (1.0,) * replay.layers, batch.rows),
        )
    cpu = {name: median(t["cpu"] for t in each) for name, each in parts.items()}
    return {
        "samples": len(samples),
        "cpu seconds": {name: median(t["cpu"] for t in each) for name, each in times.items()},
        "share of the time": {name: seconds / sum(cpu.values()) for name, seconds in cpu.items()},
        "bytes per sample, files": files / len(samples),
        "bytes per sample, memory": sizes(evaluator),
    }


def plot(results: dict, path: Path) -> None:
    """Factors of sharing, and what batching could win."""
    import matplotlib.pyplot as plt

    sharing, bounds = results["prefix sharing"], results["batching"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    names = ("FLOPs", "CPU time", "wall time")
    bars = left.bar(names, [sharing[f"factor in {name}"] for name in names], color="#4477aa")
    left.bar_label(bars, fmt="%.1f")
    left.axhline(3, color="black", linewidth=0.8, linestyle="--")
    left.set(title=f"{sharing['schedules']} schedules: tree over one by one", ylabel="factor")
    heights = {str(each["samples"]): each["bound"]["cpu"] for each in bounds}
    bars = right.bar(list(heights), list(heights.values()), color="#cc6677")
    right.bar_label(bars, fmt="%.2f")
    right.axhline(1.2, color="black", linewidth=0.8, linestyle="--")
    right.set(title="Schedules in one batch: at most", xlabel="samples", ylabel="factor, CPU time")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def study(samples: int, subset: int, rounds: int, few: Sequence[int]) -> dict:
    """All of it, on validation samples of data seed 7."""
    model, processor = load_checkpoint("micro-llava")
    drawn = load_samples("shapes", "validation", max(samples, *few), seed=7)
    schedules = monotone_schedules(model.config.text_config.num_hidden_layers, LADDER)
    evaluator = Evaluator(model, processor, drawn[:samples], batch_size=samples)
    return {
        "machine": {
            "processor": platform.machine(),
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "rounds": rounds,
        "caching": caching(model, processor, drawn[:samples], rounds),
        "batching": [batching(model, processor, drawn[:number], schedules, 4, rounds) for number in few],
        "prefix sharing": prefix_sharing(evaluator, schedules, subset, rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=125)
    parser.add_argument("--subset", type=int, default=20, help="schedules that are timed one by one")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--few", type=int, nargs="+", default=[4, 16], help="samples in the small batches")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    results = study(options.samples, options.subset, options.rounds, options.few)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(results, options.out / "factors.png")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
