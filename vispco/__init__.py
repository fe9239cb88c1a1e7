"""vispco: find, verify and hand over the best layer-wise visual-token keep ratios under a compute budget."""

from vispco.config import InputProjection, ModelCard, PruningConfig
from vispco.cost import count_flops
from vispco.engine import Pruned, prune
from vispco.frontier import Point, epsilon, hypervolume, igd_plus, pareto_front, read_points

__version__ = "0.1.0"

__all__ = [
    "InputProjection",
    "ModelCard",
    "Point",
    "Pruned",
    "PruningConfig",
    "count_flops",
    "epsilon",
    "hypervolume",
    "igd_plus",
    "pareto_front",
    "prune",
    "read_points",
]
