"""The embedded default: shapes world and the micro model trained on it, both opened like any user's own."""

from pathlib import Path

from vispco.embedded import shapes

MODELS = {"micro-llava": Path(__file__).parent / "micro_llava"}
"""Checkpoint folders that come with the package."""


def locate(path: str) -> Path:
    """The folder of an embedded checkpoint by its name, and any other path as it is."""
    return MODELS.get(path, Path(path))


__all__ = ["MODELS", "locate", "shapes"]
