"""Overlays: an image with the visual tokens that were dropped dimmed."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vispco.errors import DataError

SIDE = 240
"""Longest side in pixels that a picture is brought to: smaller ones by a whole factor, larger ones by averaging."""
SHADE = np.array([24, 27, 34])
"""Colour that dropped cells sink into."""
REMAINS = 0.18
"""Part of the original colour that a dropped cell keeps."""


@dataclass(frozen=True)
class Overlay:
    """One question about one image, and what was kept at some layers.

    Attributes
    ----------
    image : PIL.Image.Image
        As the model sees it: cropped and padded like its input, so that the grid fits.
    grid : tuple of int (rows, columns)
        Visual tokens per column and per row of the image.
    kept : sequence of (label, mask)
        Labels name layers, e.g. "layer 3"; masks are boolean, shape (rows, columns): True where the token enters it.
    question, answer, said : str
        ``said`` is the model's answer with these tokens.
    """

    image: Image.Image
    grid: tuple[int, int]
    kept: Sequence[tuple[str, ArrayLike]]
    question: str
    answer: str
    said: str


def dim_dropped(image: Image.Image, mask: ArrayLike, grid: tuple[int, int]) -> Image.Image:
    """RGB copy of ``image`` in which dropped cells are dimmed and kept cells untouched.

    Pixel (y, x) of an image of height h and width w belongs to cell ``(y * rows // h, x * columns // w)``.

    Parameters
    ----------
    image : PIL.Image.Image
    mask : array_like of bool, shape (rows, columns)
    grid : tuple of int (rows, columns)

    Raises
    ------
    DataError
        If the mask is not boolean or not of the grid's shape.
    """
    cells = np.asarray(mask)
    if cells.dtype != bool or cells.shape != grid:
        raise DataError(f"mask of {cells.dtype} {cells.shape} does not fit grid {grid}; give one boolean per cell")
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height) * grid[0] // height, np.arange(width) * grid[1] // width
    dimmed = np.rint(REMAINS * pixels + (1.0 - REMAINS) * SHADE).astype(np.uint8)
    return Image.fromarray(np.where(cells[np.ix_(rows, columns)][..., None], pixels, dimmed))


def panels(overlay: Overlay) -> list[tuple[str, str]]:
    """The image and its overlays as (caption, PNG as data URI).

    Raises
    ------
    DataError
        As :func:`dim_dropped`.
    """
    image = resized(overlay.image.convert("RGB"))
    found = [("input", _data_uri(image))]
    for label, mask in overlay.kept:
        cells: NDArray[np.bool_] = np.asarray(mask)
        picture = dim_dropped(image, cells, overlay.grid)
        found.append((f"{label}: {np.count_nonzero(cells)} of {cells.size}", _data_uri(picture)))
    return found


def resized(image: Image.Image) -> Image.Image:
    """Bring a picture to about :data:`SIDE`: pixels of small ones stay sharp squares, large ones are averaged."""
    longest = max(image.size)
    if longest > SIDE:
        smaller = image.copy()
        smaller.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return smaller
    factor = SIDE // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _data_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
