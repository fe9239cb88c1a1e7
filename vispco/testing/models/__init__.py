"""Tiny random models, one per variant of a family, and synthetic inputs for them."""

from vispco.testing.models import gemma, idefics, internvl, llava, qwen
from vispco.testing.models.base import RAGGED, Sample, TinyModel

MODELS: dict[str, TinyModel] = {
    model.name: model
    for model in (*llava.VARIANTS, *qwen.VARIANTS, *gemma.VARIANTS, *internvl.VARIANTS, *idefics.VARIANTS)
}
"""Every variant by its name."""

__all__ = ["MODELS", "RAGGED", "Sample", "TinyModel"]
