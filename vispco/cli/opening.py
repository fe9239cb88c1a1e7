"""Opening the checkpoint that the settings name."""

from typing import Any

from vispco.engine import load_checkpoint
from vispco.runs.settings import ModelSettings


def open_model(settings: ModelSettings) -> tuple[Any, Any]:
    """Model and processor; see :func:`vispco.engine.load_checkpoint`."""
    return load_checkpoint(settings.path, settings.dtype, settings.attention, settings.revision, settings.device_map)
