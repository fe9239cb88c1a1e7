"""LLaVA-NeXT: the image in tiles of any resolution; the embeddings that end its rows are visual tokens like others."""

from vispco.engine.families.base import Adapter, Tower
from vispco.engine.families.tiles import mosaic, packed_patches

LLAVA_NEXT = Adapter(
    "LLaVA-NeXT",
    "LlavaNextForConditionalGeneration",
    note="row ends count as visual tokens",
    tower=Tower(packed_patches),
    layout=mosaic,
)
