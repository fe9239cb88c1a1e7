"""What a configuration costs: exact from integer counts, soft for the gradient."""

from vispco.cost.base import Cost, Cut, Prompt, Selection
from vispco.cost.flops import DecodeFlopCost, FlopCost, FlopReport, count_flops
from vispco.cost.latency import GenerationCost, LatencyCost
from vispco.cost.memory import KvCost, PeakCost
from vispco.cost.registry import REGISTRY, TIMED, Workload, check_cost, make_cost, make_costs
from vispco.cost.shape import DecoderShape, sliding_windows
from vispco.cost.table import LatencyTable, TableKey

__all__ = [
    "REGISTRY",
    "TIMED",
    "Cost",
    "Cut",
    "DecodeFlopCost",
    "DecoderShape",
    "FlopCost",
    "FlopReport",
    "GenerationCost",
    "KvCost",
    "LatencyCost",
    "LatencyTable",
    "PeakCost",
    "Prompt",
    "Selection",
    "TableKey",
    "Workload",
    "check_cost",
    "count_flops",
    "make_cost",
    "make_costs",
    "sliding_windows",
]
