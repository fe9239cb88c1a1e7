"""Overlays: a picture with the visual tokens that were dropped dimmed, for every layer.

The page holds a picture once, and what enters a layer as bits; the browser draws the veil over the dropped cells.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from vispco.errors import DataError

SIDE = 336
"""Longest side in pixels that a larger picture is brought to, by averaging."""


@dataclass(frozen=True)
class Overlay:
    """One question about one picture, and what was kept.

    Attributes
    ----------
    image : PIL.Image.Image
        As the model sees it: cropped and padded like its input, so that the grid fits.
    grid : tuple of int (rows, columns)
        Visual tokens per column and per row of the picture.
    kept : mapping of int to mask
        By the layers where it changes: boolean, shape (rows, columns), True where the token enters the layer. Before
        the first of them everything is kept.
    question, answer, said : str
        ``said`` is the model's answer with these tokens.
    """

    image: Image.Image
    grid: tuple[int, int]
    kept: Mapping[int, ArrayLike]
    question: str
    answer: str
    said: str


def drawn(overlay: Overlay) -> dict[str, Any]:
    """What the page's script gets: ``rows``, ``columns``, and ``kept``, pairs of a layer and its bits.

    Bits are those of the mask row by row, the first the highest of its byte, in base 64.

    Raises
    ------
    DataError
        If a mask is not boolean or not of the grid's shape.
    """
    kept = []
    for layer, mask in sorted(overlay.kept.items()):
        cells = np.asarray(mask)
        if cells.dtype != bool or cells.shape != overlay.grid:
            raise DataError(
                f"mask of {cells.dtype} {cells.shape} does not fit grid {overlay.grid}; give one boolean per cell"
            )
        kept.append((layer, base64.b64encode(np.packbits(cells).tobytes()).decode()))
    rows, columns = overlay.grid
    return {"rows": rows, "columns": columns, "kept": kept}


def shrunk(image: Image.Image) -> Image.Image:
    """A picture of at most :data:`SIDE` pixels; small ones stay as they are, so that the browser shows their pixels."""
    if max(image.size) <= SIDE:
        return image
    smaller = image.copy()
    smaller.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return smaller


def image_uri(image: Image.Image) -> str:
    """Data URI of a picture, shrunk if need be.

    PNG, which is exact; JPEG where that is a third of it or less, as it is of photographs.
    """
    image = shrunk(image.convert("RGB"))
    exact, small = _encoded(image, "png", optimize=True), _encoded(image, "jpeg", quality=88)
    kind, content = ("jpeg", small) if 3 * len(small) <= len(exact) else ("png", exact)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()
