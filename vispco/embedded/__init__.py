"""The embedded default: shapes world and the micro models trained on it, opened like any user's own."""

from pathlib import Path

from vispco.embedded import shapes

_HERE = Path(__file__).parent

MODELS = {
    "micro-llava": _HERE / "micro_llava",
    "micro-qwen2.5-vl": _HERE / "micro_qwen2_5_vl",
    "micro-gemma3": _HERE / "micro_gemma3",
}
"""Checkpoint folders that come with the package."""


def locate(path: str) -> Path:
    """The folder of an embedded checkpoint by its name, and any other path as it is."""
    return MODELS.get(path, Path(path))


__all__ = ["MODELS", "locate", "shapes"]
