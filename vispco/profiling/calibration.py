"""A latency table from real prefills and a few decoding steps of one model on one device.

What is timed is ``generate`` as a user calls it, stage by stage (:mod:`vispco.profiling.stages`): on prompts of several
sizes, unpruned, pruned to a grid of counts, and under every selector (:mod:`vispco.profiling.plan`). All of it takes
turns, round after round, in another order every time. A table has what :mod:`vispco.profiling.fitting` makes of the
medians over rounds.
"""

import gc
import platform
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from vispco.config import ModelCard, PruningConfig
from vispco.cost import DecoderShape
from vispco.cost.table import LatencyTable, Protocol, TableKey
from vispco.data import Sample
from vispco.engine import prune
from vispco.engine.families import Family, describe
from vispco.engine.placing import device_of
from vispco.errors import ConfigError
from vispco.evaluation.prompts import prepare
from vispco.profiling.fitting import fit_table
from vispco.profiling.pairs import clocks
from vispco.profiling.plan import Plan, Prompt, Run
from vispco.profiling.stages import Stages, time_stages

SETTLED = 5
"""Unpruned prefills that are compared: to see whether their times have settled, and for the drift."""

SPREAD = 0.2
"""Interquartile range over median at which times have settled."""

WARM_UP = 15
"""Unpruned prefills after which measuring begins in any case."""

ROUNDS = 3
"""Rounds that are made even if they take longer than they may; fewer have no median worth the name."""


def calibrate(
    model: Any,
    inputs: Sequence[Mapping[str, Tensor]],
    selectors: Mapping[str, Mapping[str, Any]],
    *,
    batch: int,
    clock: str = "wall",
    new_tokens: int = 32,
    repeats: int = 25,
    seconds: float = 60.0,
    drift: float = 0.25,
) -> LatencyTable:
    """Measure a latency table.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : sequence of mapping
        Of ``generate``, each a batch of ``batch`` equal prompts without padding. The table is valid from the fewest
        text tokens to the largest prompt among them.
    selectors : mapping of str to mapping
        Parameters of every selector to measure.
    batch : int
    clock : str
        "wall", or "cpu" for the CPU time of this process, which leaves out its waiting for a shared CPU.
    new_tokens : int
        Longest answer that the table will be asked about, after its first token.
    repeats : int
        Most rounds.
    seconds : float
        After this time no round begins, once there are 3.
    drift : float
        Largest change of the unpruned prefill from start to end, as a fraction.

    Raises
    ------
    ConfigError
        If an argument cannot be used, or the machine is too unsteady: the drift was too large twice.
    """
    family = describe(model)
    device = device_of(family.model).type
    if clock not in clocks(device):
        raise ConfigError(f"clock {clock!r} is unknown on {device}; choose one of {', '.join(clocks(device))}")
    if not inputs or not selectors:
        raise ConfigError("there is nothing to measure; give one prompt and one selector or more")
    if repeats < 1 or new_tokens < 1:
        raise ConfigError(f"repeats = {repeats} and new_tokens = {new_tokens} must be 1 or more; give more")
    plan = Plan([Prompt.of(family, each, batch) for each in inputs], len(family.layers), selectors, new_tokens)
    timing = _Timing(family, selectors, clock)
    for _ in range(2):
        before = timing.warm_up(plan.baseline)
        times = timing.rounds(plan.runs, repeats, seconds)
        after = [timing.prefill(plan.baseline) for _ in range(SETTLED)]
        change = median(after) / median(before[-SETTLED:])
        if abs(change - 1.0) <= drift:
            break
    else:
        raise ConfigError(
            f"the unpruned prefill took {change:.2f} times as long at the end as at the start, and a change of "
            f"{drift:g} is allowed; let the machine come to rest, use clock=cpu on a shared one, or allow more"
        )
    protocol = Protocol(
        clock=clock,
        repeats=len(times[plan.baseline]) // plan.runs.count(plan.baseline),
        warm_up=len(before),
        spread=round(median(_spread([passes[0].total for passes in calls]) for calls in times.values()), 4),
        drift=round(change, 4),
    )
    return fit_table(family, plan, times, selectors, table_key(model, batch), protocol)


def calibrate_for(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    selectors: Mapping[str, Mapping[str, Any]],
    *,
    batch: int,
    clock: str = "wall",
    **options: Any,
) -> LatencyTable:
    """Measure a latency table for the prompts of samples.

    Parameters
    ----------
    model, processor
    samples : sequence of Sample
        All that the table will be asked about. Prompts of four at most are measured: the one with the fewest text
        tokens, the smallest, the middle and the largest.
    selectors : mapping of str to mapping
        Parameters of every selector to measure.
    batch : int
        Equal prompts that run at once.
    clock : str
    options
        Others of :func:`calibrate`.

    Raises
    ------
    ConfigError
        As :func:`calibrate`, and if there are no samples or ``batch`` is below 1.
    """
    if not samples or batch < 1:
        raise ConfigError(f"{len(samples)} samples in batches of {batch} cannot be timed; give 1 or more of both")
    family = describe(model)
    sizes = [_size(family, processor, sample) for sample in samples]
    order = sorted(range(len(samples)), key=lambda index: sum(sizes[index]))
    chosen = [min(order, key=lambda index: sizes[index]), order[0], order[len(order) // 2], order[-1]]
    different = {sizes[index]: samples[index] for index in chosen}
    inputs = [inputs_of(family.model, processor, [sample] * batch) for sample in different.values()]
    return calibrate(model, inputs, selectors, batch=batch, clock=clock, **options)


def table_key(model: Any, batch: int) -> TableKey:
    """Where a table of this model, measured now in this process with batches of this size, is valid."""
    family = describe(model)
    text: Any = family.decoder.config
    return TableKey(
        device=_device_name(device_of(family.model)),
        threads=torch.get_num_threads(),
        dtype=str(family.model.dtype).removeprefix("torch."),
        backend=text._attn_implementation,
        batch=batch,
        torch=torch.__version__,
        transformers=transformers.__version__,
        model=family.model.config.model_type,
        parameters=sum(parameter.numel() for parameter in family.model.parameters()),
        decoder=vars(DecoderShape.of(family.model.config)),
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = Path("/proc/cpuinfo")
    lines = cores.read_text().splitlines() if cores.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _size(family: Family, processor: Any, sample: Sample) -> tuple[int, int]:
    """Text and visual tokens of a prompt."""
    ids = inputs_of(family.model, processor, [sample])["input_ids"]
    visual = int(family.visual_mask(ids).sum())
    return ids.shape[1] - visual, visual


def inputs_of(model: Any, processor: Any, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """What ``generate`` gets for samples: one batch of their prompts, on the model's device and in its dtype."""
    batch = prepare(processor, samples)
    place, width = batch.inputs["input_ids"].shape, int(batch.query[0]) + 1
    cut = {name: value[:, :width] if value.shape == place else value for name, value in batch.inputs.items()}
    device = device_of(model)
    return {name: value.to(device, model.dtype if value.is_floating_point() else None) for name, value in cut.items()}


def _spread(times: Sequence[float]) -> float:
    """Interquartile range over median."""
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return float((high - low) / middle)


class _Timing:
    """Times runs of a plan on a model."""

    def __init__(self, family: Family, selectors: Mapping[str, Mapping[str, Any]], clock: str):
        self.family, self.selectors, self.clock = family, selectors, clock

    @torch.no_grad()
    def stages(self, run: Run) -> list[Stages]:
        """Passes of one call."""
        model, prompt = self.family.model, run.prompt
        context: AbstractContextManager[Any] = nullcontext()
        if run.selector:
            config = PruningConfig(
                selector=run.selector,
                selector_params=dict(self.selectors.get(run.selector, {})),
                keep=tuple(count / prompt.visual for count in run.counts),
                model=ModelCard(type=model.config.model_type, layers=len(run.counts)),
            )
            context = prune(model, config)
        number = run.steps + 1

        def call() -> Any:
            return model.generate(
                **prompt.inputs, do_sample=False, num_beams=1, min_new_tokens=number, max_new_tokens=number
            )

        with context:
            return time_stages(call, self.family.layers, device_of(model).type, self.clock)

    def prefill(self, run: Run) -> float:
        """Seconds of a prefill."""
        return self.stages(run)[0].total

    def warm_up(self, run: Run) -> list[float]:
        """Times of prefills until the last ones have settled."""
        times: list[float] = []
        while len(times) < SETTLED or (len(times) < WARM_UP and _spread(times[-SETTLED:]) > SPREAD):
            times.append(self.prefill(run))
        return times

    def rounds(self, runs: Sequence[Run], repeats: int, seconds: float) -> dict[Run, list[list[Stages]]]:
        """Time all runs in turns, in another order every time: neighbours share what else the machine is doing."""
        times: defaultdict[Run, list[list[Stages]]] = defaultdict(list)
        start, collects = time.perf_counter(), gc.isenabled()
        gc.disable()  # garbage of earlier calls is collected between rounds, and not while something is timed
        try:
            for number in range(repeats):
                if number >= ROUNDS and time.perf_counter() - start > seconds:
                    break
                gc.collect()
                for run in random.Random(number).sample(runs, len(runs)):
                    times[run].append(self.stages(run))
        finally:
            if collects:
                gc.enable()
        return times
