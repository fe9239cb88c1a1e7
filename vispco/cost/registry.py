"""Costs by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vispco.cost.base import Cost, Selection
from vispco.cost.flops import DecodeFlopCost, FlopCost
from vispco.cost.latency import GenerationCost, LatencyCost
from vispco.cost.memory import KvCost, PeakCost
from vispco.cost.table import LatencyTable
from vispco.errors import ConfigError


@dataclass(frozen=True)
class Workload:
    """What costs are counted of.

    Attributes
    ----------
    config
        Hugging Face configuration of the model.
    tokens : sequence of (text_tokens, visual_tokens[, images[, question]]), one per sample
    dtype : torch.dtype
        Of the model.
    selector : str
    selection : int or callable
        FLOPs of choosing tokens; see :func:`vispco.cost.flops.count_flops`.
    new_tokens : int
        Tokens that are decoded after the prefill's.
    table : LatencyTable or None
        Measured times, without which nothing can be said of time.
    """

    config: Any
    tokens: Sequence[tuple[int, ...]]
    dtype: torch.dtype = torch.float32
    selector: str = "random"
    selection: Selection = 0
    new_tokens: int = 32
    table: LatencyTable | None = None


def _table(work: Workload) -> LatencyTable:
    if work.table is None:
        raise ConfigError("time cannot be counted; make a table with `vispco profile` and give it as cost.table")
    return work.table


REGISTRY: dict[str, Callable[[Workload], Cost]] = {
    "flops": lambda work: FlopCost(work.config, work.tokens, work.selection),
    "decode_flops": lambda work: DecodeFlopCost(work.config, work.tokens, work.new_tokens),
    "kv": lambda work: KvCost(work.config, work.tokens, work.dtype),
    "peak": lambda work: PeakCost(work.config, work.tokens, work.dtype),
    "latency": lambda work: LatencyCost(work.config, work.tokens, _table(work), work.selector),
    "generation": lambda work: GenerationCost(
        work.config, work.tokens, _table(work), work.selector, new_tokens=work.new_tokens
    ),
}
"""Costs by name."""

TIMED = frozenset({"latency", "generation"})
"""Costs that need a table of measured times."""


def check_cost(name: str) -> None:
    """Refuse a cost that there is not.

    Raises
    ------
    ConfigError
    """
    if name not in REGISTRY:
        raise ConfigError(f"cost {name!r} is unknown; choose one of {', '.join(REGISTRY)}")


def make_cost(name: str, work: Workload) -> Cost:
    """The cost called ``name``.

    Raises
    ------
    ConfigError
        If there is none of that name, or it needs measured times and there are none.
    """
    check_cost(name)
    return REGISTRY[name](work)


def make_costs(work: Workload) -> dict[str, Cost]:
    """All costs that can be counted, by name."""
    return {name: make_cost(name, work) for name in REGISTRY if work.table is not None or name not in TIMED}
