"""Idefics3: tiles of one image stand apart in the text, so each of them keeps a token as an image does."""

from typing import Any

from torch import Tensor

from vispco.engine.families.base import Adapter, Family, Pictures, Tower


def shuffled_patches(family: Family, patches: Tensor, pictures: Pictures) -> Tensor:
    """Means of the patches that the connector puts side by side."""
    connector: Any = family.base.connector
    shuffled: Tensor = connector.pixel_shuffle(patches, connector.scale_factor)
    return shuffled.reshape(-1, connector.scale_factor**2, patches.shape[2]).mean(dim=1)


IDEFICS3 = Adapter(
    "Idefics3",
    "Idefics3ForConditionalGeneration",
    note="every tile keeps a token",
    tower=Tower(shuffled_patches, path="vision_model"),
)
