"""A picture as the model sees it, and which of its cells each visual token stands for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vispco.engine.families import Family, describe
from vispco.engine.prompt import told_of_pictures


@dataclass(frozen=True)
class Seen:
    """One picture of a prompt.

    Attributes
    ----------
    pixels : ndarray, shape (height, width, 3), uint8
        What the vision tower gets: resized, cropped and padded, without the normalisation.
    tokens : ndarray, shape (rows, columns), int64
        Which of the prompt's visual tokens each cell is.
    """

    pixels: NDArray[np.uint8]
    tokens: NDArray[np.int64]


def seen_picture(model: Any, processor: Any, inputs: Mapping[str, Any]) -> Seen | None:
    """The picture of a prompt that has one, and its grid of visual tokens.

    Where a family cuts pictures into tiles beside the whole picture, it is the whole one; where all it has are tiles,
    they stand below each other.

    Parameters
    ----------
    model, processor
        From :func:`vispco.engine.load_checkpoint`.
    inputs : mapping
        The processor's output for one prompt.

    Returns
    -------
    Seen or None
        None where the tokens are no rectangle, or the pixels are not kept in a known way.
    """
    family = describe(model)
    tokens = _cells(family, inputs)
    pixels = inputs.get("pixel_values")
    if tokens is None or pixels is None:
        return None
    tiles = _unpatched(pixels, inputs, processor) if pixels.dim() == 2 else pixels.flatten(0, -4)
    alone = tokens.size < int(family.visual_mask(inputs["input_ids"]).sum())  # others are tiles of the same picture
    plain = torch.cat(list(tiles[:1] if alone else tiles), dim=1)
    return Seen(_denormalised(plain, processor.image_processor), tokens)


def _cells(family: Family, inputs: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """Visual tokens by row and column; None if those of the whole picture do not fill a rectangle."""
    number = int(family.visual_mask(inputs["input_ids"]).sum())
    if family.layout is None:
        side = math.isqrt(number)
        return np.arange(number).reshape(side, side) if number and side * side == number else None
    layout = family.layout(family, told_of_pictures(inputs))
    whole = torch.nonzero(layout[:, 2] == 0).flatten()
    rows, columns = layout[whole, 0], layout[whole, 1]
    if not len(whole):
        return None
    grid = np.full((int(rows.max()) + 1, int(columns.max()) + 1), -1, dtype=np.int64)
    grid[rows, columns] = whole
    return grid if grid.size == len(whole) and (grid >= 0).all() else None


def _unpatched(patches: Tensor, inputs: Mapping[str, Any], processor: Any) -> Tensor:
    """Pictures (1, channels, height, width) from the flat patches (patches, values) of the Qwen families.

    Patches that are merged into one token follow each other; their values are channels, frames, rows, columns.
    """
    options = processor.image_processor
    merge, side = options.merge_size, options.patch_size
    frames, height, width = inputs["image_grid_thw"][0].tolist()
    count = frames * height * width
    blocks = patches[:count].view(frames, height // merge, width // merge, merge, merge, -1, side, side)
    channels = blocks.shape[5] // options.temporal_patch_size
    blocks = blocks.unflatten(5, (channels, -1))[0, :, :, :, :, :, 0]
    picture: Tensor = blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, channels, height * side, width * side)
    return picture


def _denormalised(pixels: Tensor, options: Any) -> NDArray[np.uint8]:
    """Pixels (channels, height, width) as they were before they were rescaled and normalised."""
    mean, spread = (torch.tensor(values).view(-1, 1, 1) for values in (options.image_mean, options.image_std))
    levels = (pixels.float().cpu() * spread + mean) / options.rescale_factor
    return np.asarray(levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0))
