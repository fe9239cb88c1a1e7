"""What a configuration delivers against the stock model on the same backend: times, memory, energy."""

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import Tensor

from vispco.config import PruningConfig
from vispco.cost import FlopCost
from vispco.engine import model_card, prune
from vispco.engine.families import describe
from vispco.engine.placing import device_of
from vispco.engine.prefill import Prefill, last_real, sample_keys
from vispco.errors import ConfigError
from vispco.evaluation.prompts import Size, sizes_of
from vispco.frontier import Interval
from vispco.profiling.calibration import table_key
from vispco.profiling.energy import find_meter, joules
from vispco.profiling.generation import Generated, time_generation
from vispco.profiling.memory import peak_bytes
from vispco.profiling.pairs import Side, bootstrap_median, clocks, seconds, time_rounds
from vispco.selectors import make_selector

SCHEMA_VERSION = "1.0"

WARM_UP = 2
"""Rounds that are not counted."""

BASELINE = 5
"""Stock prefills before and after all rounds."""

ENERGY_ROUNDS = 5
"""Rounds of repeated prefills for energy."""

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Compared:
    """Medians of the stock and of the pruned model, and the median ratio pruned / stock within a round.

    A quantity that is counted and not timed has no interval: its ends are the ratio itself.
    """

    stock: float
    pruned: float
    ratio: Interval

    @classmethod
    def of(cls, stock: Sequence[float], pruned: Sequence[float]) -> "Compared":
        """From one value of each per round."""
        ratios = [ours / theirs for ours, theirs in zip(pruned, stock, strict=True)]
        return cls(median(stock), median(pruned), bootstrap_median(ratios))


@dataclass(frozen=True)
class Choosing:
    """What the selector adds to choosing at random under the same schedule, per prefill.

    Attributes
    ----------
    seconds : Interval
        Pruned less random.
    share : Interval
        The same over the stock model's time to the first token.
    """

    seconds: Interval
    share: Interval


@dataclass(frozen=True)
class Bench:
    """The result; see :func:`bench`.

    Attributes
    ----------
    environment : dict
        Device, threads, dtype, backend, batch, versions and model.
    protocol : dict
        Rounds, warm-up, clock, new tokens, and the tokens of the prompts.
    first : Compared
        Seconds to the first token.
    decode : Compared
        Tokens per second after the first one, of the whole batch.
    peak : Compared
        Bytes that a prefill needs at once, beyond weights and inputs; of the largest batch.
    kv : Compared
        Bytes of keys and values that its cache holds after it.
    selector : Choosing or None
        None for a selector that is random itself.
    energy : Compared or None
        Joules per prefill.
    energy_source : str
        What reports them, or why nothing does.
    noise : dict of str to Interval
        The stock model against itself, time to the first token and tokens per second.
    drift : float
        Time of the same stock prefill after all rounds over that before them: how much the machine changed.
    flops : float
        FLOPs of the language model's prefill, choosing included, over those of the unpruned one.
    """

    config: PruningConfig
    environment: dict[str, Any]
    protocol: dict[str, Any]
    first: Compared
    decode: Compared
    peak: Compared
    kv: Compared
    selector: Choosing | None
    energy: Compared | None
    energy_source: str
    noise: dict[str, Interval]
    drift: float
    flops: float

    @property
    def delivered(self) -> Interval:
        """Ratio of times to the first token over the ratio of FLOPs: 1 where all that was saved is delivered."""
        return Interval(*(end / self.flops for end in self.first.ratio))

    def to_json(self) -> str:
        """JSON text; intervals are objects with ``value``, ``low`` and ``high``."""
        content = {
            **asdict(self), "schema_version": SCHEMA_VERSION, "config": self.config.model_dump(mode="json"),
            "delivered_over_ideal": self.delivered,
        }  # fmt: skip
        return json.dumps(_named(content), indent=2, sort_keys=True, allow_nan=False) + "\n"


def _named(value: Any) -> Any:
    """``value`` with intervals as dictionaries."""
    if isinstance(value, Interval):
        return value._asdict()
    return {key: _named(inner) for key, inner in value.items()} if isinstance(value, dict) else value


@torch.no_grad()
def bench(
    model: Any,
    inputs: Sequence[Inputs],
    config: PruningConfig,
    *,
    new_tokens: int = 32,
    rounds: int = 20,
    warm_up: int = WARM_UP,
    clock: str = "wall",
    seed: int = 0,
    advance: Callable[[], None] | None = None,
) -> Bench:
    """Hold a configuration against the stock model.

    In every round the stock model, the pruned one, the same schedule under ``random`` and the stock model again answer
    the same prompts by ``generate``; every other round goes backwards. Times are compared within a round, and intervals
    are bootstrapped over rounds.

    Parameters
    ----------
    model : PreTrainedModel
        On its device.
    inputs : sequence of mapping
        Batches of equal size for ``generate``, on the device; rounds take turns with them.
    config : PruningConfig
        For this model.
    new_tokens : int
        Tokens after the first one.
    rounds, warm_up : int
    clock : str
        ``wall``, or ``cpu`` for the process's own CPU time.
    seed : int
        Of the random choice.
    advance : callable or None
        Called after every ``generate`` that is timed, for a progress bar.

    Raises
    ------
    ConfigError
        If a number is below 1, the clock is unknown on this device, or the configuration is for another model.
    ModelError
        If the model is not supported.
    """
    device = device_of(model).type
    _check(device, clock, {"batches": len(inputs), "new_tokens": new_tokens, "rounds": rounds})
    with prune(model, config):  # refuses what does not go together before anything long
        pass
    sides = _sides(model, config, seed)
    largest = max(inputs, key=lambda each: each["input_ids"].numel())
    with _settled_garbage():
        before = _baseline(model, largest, clock)
        found = time_rounds(_answers(model, inputs, len(sides), new_tokens, advance), sides, rounds, warm_up)
        drift = _baseline(model, largest, clock) / before
        energy, source = _energy(model, largest, sides)
    first = {name: [each.first[clock] for each in times] for name, times in found.items()}
    rest = {name: [each.rest[clock] for each in times] for name, times in found.items()}
    batch = len(inputs[0]["input_ids"])
    speed = {name: [batch * new_tokens / value for value in values] for name, values in rest.items()}
    memory = {name: _memory(model, largest, sides[name]) for name in ("stock", "pruned")}
    return Bench(
        config=config,
        environment={**table_key(model, batch).model_dump(), "fingerprint": model_card(model).fingerprint},
        protocol={
            "rounds": rounds, "warm_up": warm_up, "clock": clock, "new_tokens": new_tokens, "batches": len(inputs),
            "prompt_tokens": sorted({each["input_ids"].shape[1] for each in inputs}),
        },
        first=Compared.of(first["stock"], first["pruned"]),
        decode=Compared.of(speed["stock"], speed["pruned"]),
        peak=Compared.of(*([memory[name][0]] for name in ("stock", "pruned"))),
        kv=Compared.of(*([memory[name][1]] for name in ("stock", "pruned"))),
        selector=_choosing(first) if "random" in sides else None,
        energy=energy,
        energy_source=source,
        noise={
            "first": Compared.of(first["stock"], first["again"]).ratio,
            "decode": Compared.of(speed["stock"], speed["again"]).ratio,
        },
        drift=drift,
        flops=_flops(model, inputs, config),
    )  # fmt: skip


def _check(device: str, clock: str, numbers: Mapping[str, int]) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} = {number} is below 1; give a positive whole number")
    if clock not in clocks(device):
        raise ConfigError(f"clock {clock!r} is unknown on {device}; choose one of {', '.join(clocks(device))}")


def _sides(model: Any, config: PruningConfig, seed: int) -> dict[str, Side]:
    """What takes turns: the stock model, the pruned one, the same schedule at random, the stock model again."""
    control = config.model_copy(update={"selector": "random", "selector_params": {"seed": seed}})
    sides: dict[str, Side] = {"stock": nullcontext, "pruned": partial(prune, model, config)}
    if config.selector != "random":
        sides["random"] = partial(prune, model, control)
    return {**sides, "again": nullcontext}


@contextmanager
def _settled_garbage() -> Iterator[None]:
    """Before every timed call garbage is looked for; what is there already is none, and not looked through again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _answers(
    model: Any, inputs: Sequence[Inputs], sides: int, new_tokens: int, advance: Callable[[], None] | None
) -> Callable[[], Generated]:
    """A timed answer; every batch comes as often as there are sides before the next one does."""
    turns = (batch for batch in cycle(inputs) for _ in range(sides))

    def timed() -> Generated:
        times = time_generation(model, next(turns), new_tokens)
        if advance:
            advance()
        return times

    return timed


def _choosing(first: Mapping[str, Sequence[float]]) -> Choosing:
    more = [ours - theirs for ours, theirs in zip(first["pruned"], first["random"], strict=True)]
    shares = [each / whole for each, whole in zip(more, first["stock"], strict=True)]
    return Choosing(bootstrap_median(more), bootstrap_median(shares))


def _prefill(model: Any, inputs: Inputs) -> Any:
    return model.generate(**inputs, do_sample=False, max_new_tokens=1, return_dict_in_generate=True)


def _baseline(model: Any, inputs: Inputs, clock: str) -> float:
    """Seconds of a stock prefill, without the first one: what had to be loaded is loaded by then."""
    calls = [seconds(partial(_prefill, model, inputs), device_of(model).type) for _ in range(1 + BASELINE)]
    return median(call[clock] for call in calls[1:])


def _memory(model: Any, inputs: Inputs, side: Side) -> tuple[int, int]:
    """Peak bytes of a prefill, and bytes that its cache holds."""
    with side():
        peak = peak_bytes(partial(_prefill, model, inputs), device_of(model).type)
        cache = _prefill(model, inputs).past_key_values
    return peak, sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def _energy(model: Any, inputs: Inputs, sides: Mapping[str, Side]) -> tuple[Compared | None, str]:
    """Joules of a prefill of both models, if the device reports them."""
    device = device_of(model).type
    meter, source = find_meter(device)
    if meter is None:
        return None, source
    both = {name: sides[name] for name in ("stock", "pruned")}
    found = time_rounds(partial(joules, partial(_prefill, model, inputs), meter, device), both, ENERGY_ROUNDS, 0)
    return Compared.of(found["stock"], found["pruned"]), source


def _flops(model: Any, inputs: Sequence[Inputs], config: PruningConfig) -> float:
    """FLOPs of the pruned prefill over those of the unpruned one, over all prompts."""
    selector = make_selector(config.selector, config.selector_params)
    family, tokens = describe(model), list[Size]()
    for batch in inputs:
        ids, real = batch["input_ids"].cpu(), batch["attention_mask"].cpu().bool()
        end = last_real(real)
        prefill = Prefill(family.visual_mask(ids) & real, real, end, selector, sample_keys(ids, real, end))
        tokens += sizes_of(prefill, real.sum(dim=1) - prefill.counts)
    return FlopCost(model.config, tokens, selector.flops).exact(config.keep)
