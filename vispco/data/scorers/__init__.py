"""Scorers of benchmarks by name: one file each."""

from collections.abc import Callable, Mapping
from typing import Any

from vispco.data.scorers.base import PerSample, Scorer
from vispco.data.scorers.chartqa import RelaxedAccuracy
from vispco.data.scorers.exact_match import ExactMatch
from vispco.data.scorers.grounding import Grounding
from vispco.data.scorers.mme import Mme
from vispco.data.scorers.ocrbench import Containment
from vispco.data.scorers.options import Options
from vispco.data.scorers.pope import Pope
from vispco.data.scorers.vqa import SoftAccuracy
from vispco.errors import ConfigError

REGISTRY: dict[str, Callable[..., Scorer]] = {
    "exact_match": ExactMatch,
    "options": Options,
    "vqa": SoftAccuracy,
    "chartqa": RelaxedAccuracy,
    "ocrbench": Containment,
    "mme": Mme,
    "pope": Pope,
    "grounding": Grounding,
}


def make_scorer(name: str, params: Mapping[str, Any] | None = None) -> Scorer:
    """The scorer called ``name`` with its settings.

    Raises
    ------
    ConfigError
        If there is none of that name, or it has no such setting.
    """
    if name not in REGISTRY:
        raise ConfigError(f"scorer {name!r} is unknown; choose answer_tokens or one of {', '.join(REGISTRY)}")
    try:
        return REGISTRY[name](**(params or {}))
    except TypeError as error:
        raise ConfigError(
            f"data.scorer_params = {dict(params or {})}: {name} {error}; see docs/benchmarks.md"
        ) from None


__all__ = ["REGISTRY", "PerSample", "Scorer", "make_scorer"]
