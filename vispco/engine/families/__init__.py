"""Model families: the little that differs between vision-language models, one small adapter each."""

from collections.abc import Callable
from typing import Any

from vispco.engine.families.base import Family
from vispco.engine.families.llava import describe_llava
from vispco.errors import ModelError

REGISTRY: dict[str, Callable[[Any], Family]] = {"llava": describe_llava}
"""Adapters by the ``model_type`` of the Hugging Face configuration."""


def describe(model: Any) -> Family:
    """The family of a loaded model.

    Raises
    ------
    ModelError
        If no adapter knows the model's type.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in REGISTRY:
        raise ModelError(f"model type {kind!r} is not supported; supported types: {', '.join(REGISTRY)}")
    return REGISTRY[kind](model)


__all__ = ["REGISTRY", "Family", "describe"]
