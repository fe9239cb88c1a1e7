"""Doors to evaluation harnesses, which are none of our dependencies: nothing here imports one before it asks."""

from typing import Any


def lmms_eval_models() -> Any:
    """What lmms-eval finds under its entry points: the model ``vispco``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vispco", simple_class_path="vispco.integrations.lmms_eval.Vispco")


__all__ = ["lmms_eval_models"]
