"""Selectors: which visual tokens stay. One file per method, one line here."""

from collections.abc import Mapping
from typing import Any

from vispco.errors import ConfigError
from vispco.selectors.balanced_fastv import BalancedFastV
from vispco.selectors.base import (
    BEFORE,
    Choice,
    Knob,
    Merger,
    Need,
    Nested,
    Orderer,
    Scorer,
    Selector,
    SelectorInputs,
    Setter,
    as_nested,
)
from vispco.selectors.cdpruner import CDPruner
from vispco.selectors.dart import DART
from vispco.selectors.divprune import DivPrune
from vispco.selectors.fastervlm import FasterVLM
from vispco.selectors.fastv import FastV
from vispco.selectors.feather import Feather
from vispco.selectors.fitprune import FitPrune
from vispco.selectors.hired import HiRED
from vispco.selectors.holov import HoloV
from vispco.selectors.mob import MoB
from vispco.selectors.mustdrop import MustDrop
from vispco.selectors.pooling import Pooling
from vispco.selectors.prumerge import PruMerge
from vispco.selectors.pyramiddrop import PyramidDrop
from vispco.selectors.random import Random
from vispco.selectors.ranking import rank_tokens
from vispco.selectors.reverse_fastv import ReverseFastV
from vispco.selectors.sparsevlm import SparseVLM
from vispco.selectors.sparsevlm_plus import SparseVLMPlus
from vispco.selectors.sparsevlm_recycling import SparseVLMRecycling
from vispco.selectors.tome import ToMe
from vispco.selectors.topv import TopV
from vispco.selectors.uniform_grid import UniformGrid
from vispco.selectors.visionzip import VisionZip
from vispco.selectors.vispruner import VisPruner
from vispco.selectors.visual_fastv import VisualFastV
from vispco.selectors.window_fastv import WindowFastV

REGISTRY: dict[str, type[Selector]] = {
    "fastv": FastV,
    "fitprune": FitPrune,
    "sparsevlm": SparseVLM,
    "mob": MoB,
    "random": Random,
    "uniform_grid": UniformGrid,
    "reverse_fastv": ReverseFastV,
    "visual_fastv": VisualFastV,
    "window_fastv": WindowFastV,
    "balanced_fastv": BalancedFastV,
    "dart": DART,
    "divprune": DivPrune,
    "cdpruner": CDPruner,
    "pyramiddrop": PyramidDrop,
    "feather": Feather,
    "sparsevlm_recycling": SparseVLMRecycling,
    "sparsevlm_plus": SparseVLMPlus,
    "pooling": Pooling,
    "tome": ToMe,
    "fastervlm": FasterVLM,
    "visionzip": VisionZip,
    "prumerge": PruMerge,
    "vispruner": VisPruner,
    "hired": HiRED,
    "holov": HoloV,
    "mustdrop": MustDrop,
    "topv": TopV,
}
"""Selectors by name: those of the papers that this project grew from, controls, and others of the field."""


def make_selector(name: str, parameters: Mapping[str, Any] | None = None) -> Selector:
    """The selector called ``name`` with its parameters.

    Raises
    ------
    ConfigError
        If there is no such selector, or it has no such parameter.
    """
    if name not in REGISTRY:
        raise ConfigError(f"selector {name!r} is unknown; choose one of {', '.join(REGISTRY)}")
    try:
        return REGISTRY[name](**(parameters or {}))
    except TypeError as error:
        raise ConfigError(f"selector {name!r} does not take parameters {dict(parameters or {})} ({error})") from None


__all__ = [
    "BEFORE",
    "REGISTRY",
    "Choice",
    "Knob",
    "Merger",
    "Need",
    "Nested",
    "Orderer",
    "Scorer",
    "Selector",
    "SelectorInputs",
    "Setter",
    "as_nested",
    "make_selector",
    "rank_tokens",
]
