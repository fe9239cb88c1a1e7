"""The conformance suite: what every model family, selector and backend has to pass, on tiny random models.

An entry in :data:`MODELS` or :data:`SELECTORS` is all that a new family or selector needs; ``for case in matrix(): ...
run_check(name, case)`` runs it.
"""

from vispco.testing.conformance import CHECKS, TOLERANCE, Case, matrix, run_check
from vispco.testing.models import MODELS, RAGGED, Sample, TinyModel
from vispco.testing.selectors import SELECTORS, SelectorCase

__all__ = [
    "CHECKS",
    "MODELS",
    "RAGGED",
    "SELECTORS",
    "TOLERANCE",
    "Case",
    "Sample",
    "SelectorCase",
    "TinyModel",
    "matrix",
    "run_check",
]
