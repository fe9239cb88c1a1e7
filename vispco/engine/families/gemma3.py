"""Gemma 3: tokens of an image see each other both ways, and most layers look back through a sliding window only.

Both live in masks over pairs of tokens, which flash attention does not take.
"""

from typing import Any

from torch import Tensor

from vispco.engine.families.base import MASKED, Adapter, Family, Pictures, Tower


def pooled_patches(family: Family, patches: Tensor, pictures: Pictures) -> Tensor:
    """Means of squares of patches, as the projector pools them."""
    projector: Any = family.base.multi_modal_projector
    side = projector.patches_per_image
    grid = patches.transpose(1, 2).reshape(len(patches), -1, side, side)
    pooled: Tensor = projector.avg_pool(grid)
    return pooled.flatten(2).transpose(1, 2).flatten(0, 1)


GEMMA3 = Adapter(
    "Gemma 3",
    "Gemma3ForConditionalGeneration",
    backends=MASKED,
    note="image blocks see both ways; windows count the original tokens",
    tower=Tower(pooled_patches),
)
