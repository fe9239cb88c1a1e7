"""Images in tiles of any resolution, as LLaVA-NeXT and LLaVA-OneVision pack them.

The whole picture comes first, then the mosaic of its tiles without the padding, row by row; a newline ends every row.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, image_size_to_num_patches

from vispco.engine.families.base import Family, Pictures
from vispco.engine.families.layouts import below_each_other, images_only, told


def tile_counts(family: Family, pictures: Pictures) -> list[int]:
    """Tiles of every image, with the whole picture; LLaVA-OneVision cuts only images that are alone in their sample."""
    config = family.model.config
    each = pictures.get("batch_num_images")
    cut = [True] * len(told(pictures, "image_sizes")) if each is None else [n == 1 for n in each for _ in range(n)]
    return [
        image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size) if tiled else 1
        for size, tiled in zip(told(pictures, "image_sizes"), cut, strict=True)
    ]


def pack(family: Family, tiles: Sequence[Tensor], pictures: Pictures, newline: Tensor) -> list[Tensor]:
    """What the model itself makes of the tiles (tiles, patches, width) of every image; shapes (tokens, width)."""
    # The two families differ in one argument, which is a field of the configuration in both.
    config, base = family.model.config, cast(Any, family.base)
    name = "vision_feature_select_strategy" if config.model_type == "llava_next" else "vision_aspect_ratio"
    option = {name: getattr(config, name)}
    packed, _ = base.pack_image_features(tiles, told(pictures, "image_sizes"), image_newline=newline, **option)
    return list(packed)


def packed_patches(family: Family, patches: Tensor, pictures: Pictures) -> Tensor:
    """Values of all visual tokens; zeros for newlines."""
    images_only(family, pictures)
    tiles = patches.split(tile_counts(family, pictures))
    return torch.cat(pack(family, tiles, pictures, patches.new_zeros(patches.shape[-1])))


def mosaic(family: Family, pictures: Pictures) -> Tensor:
    """The layout: whole picture, then the mosaic of tiles from column 0 on; a newline is the column after the last.

    A tile's number begins with 1, row by row; a newline has that of the token before it. Where LLaVA-OneVision resizes
    a large mosaic, rows and columns are those of the smaller one, and a token is from the tile where its centre was.
    """
    images_only(family, pictures)
    config = family.model.config
    side = config.vision_config.image_size // config.vision_config.patch_size
    places = torch.arange(side * side)
    painted, columns = [], []
    for size, count in zip(told(pictures, "image_sizes"), tile_counts(family, pictures), strict=True):
        _, across = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
        tile = torch.arange(-1, count - 1)[:, None]
        rows, cells = tile // across * side + places // side, tile % across * side + places % side
        # The model's packing moves the rows and columns of the patches of the mosaic, and marks newlines.
        painted.append(torch.stack([rows, cells, torch.zeros_like(rows)], dim=-1).float())
        columns.append(across)
    packed = pack(family, painted, pictures, torch.tensor([0.0, 0.0, 1.0]))
    return below_each_other([_place(image, side, across) for image, across in zip(packed, columns, strict=True)])


def _place(image: Tensor, side: int, across: int) -> Tensor:
    """Rows, columns and tiles from the packed image (tokens, 3): rows and columns of patches, marks of newlines."""
    places = torch.arange(len(image))
    whole = torch.stack([places // side, places % side, torch.zeros_like(places)], dim=-1)[: side * side]
    (rows, cells, ends), places = image[side * side :].unbind(dim=-1), places[: -side * side]
    if len(places) == 1:  # no tiles, and one newline at the end of the picture
        return torch.cat([whole, torch.tensor([[side - 1, side, 0]])])
    length = len(places) // int(ends.sum())
    tiles = (rows + 0.5) // side * across + (cells + 0.5) // side + 1
    tiles = torch.where(ends == 1, tiles.roll(1), tiles).long()
    return torch.cat([whole, torch.stack([side + places // length, places % length, tiles], dim=-1)])
