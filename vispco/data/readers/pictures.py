"""Pictures as rows hold them: base64, bytes, or the name of a file in one folder."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vispco.data.readers.base import Unusable
from vispco.data.samples import Picture
from vispco.errors import DataError


class Folder:
    """Image files that a table may name: those in one folder and below it, symbolic links followed.

    Parameters
    ----------
    table : Path
        File, or folder.
    images : Path or None
        The folder; that of the table if None.

    Raises
    ------
    DataError
        If there is no such folder.
    """

    def __init__(self, table: Path, images: Path | None):
        if images is not None and not images.is_dir():
            raise DataError(f"{images}: no folder of image files; give another data.images")
        self._shown = images or (table if table.is_dir() else table.parent)
        self._path = self._shown.resolve()

    def picture(self, name: str) -> Picture:
        """The picture in a file, whose header was looked at; Unusable if it is outside, not there or no image."""
        try:
            path = (self._path / name).resolve()
            inside, there = path.is_relative_to(self._path), path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise Unusable(f"image file {name!r} cannot be looked for ({error}); mend its name") from None
        if not inside:
            raise Unusable(f"image file {name!r} is outside of {self._shown}; give the folder above it as data.images")
        if not there:
            raise Unusable(f"image file {name!r} is not in {self._shown}; put it there or give another data.images")
        return checked(Picture(path))


def from_base64(text: str) -> Picture:
    """The picture, whose header was looked at; Unusable if it is no image in base64."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Unusable(f"image cannot be decoded ({error}); store PNG or JPEG in base64") from None
    return checked(Picture(content))


def checked(picture: Picture) -> Picture:
    """The picture if it has a size; Unusable otherwise."""
    try:
        picture.size()
    except ValueError as error:
        raise Unusable(str(error)) from None
    return picture


def picture_of(fields: Mapping[str, Any], folder: Folder) -> Picture:
    """The one picture of a row, from ``image`` or, without it, ``image_path``.

    ``image`` is base64, a file's name (told by its dot, which base64 does not have), bytes, or a mapping of ``bytes``
    and ``path``, which is how Hugging Face ``datasets`` stores one.

    Raises
    ------
    Unusable
        If there is none, or several, or it cannot be used.
    """
    image = single(fields.get("image"))
    if image is None or image == "":
        image = single(fields.get("image_path"))
        if image is None or image == "":
            raise Unusable("there is no picture; give image or image_path")
        return folder.picture(_name(image))
    if isinstance(image, Mapping):
        content = image.get("bytes")
        image = content if content is not None else _name(image.get("path"))
    if isinstance(image, bytes):
        return checked(Picture(image))
    return folder.picture(image) if "." in _name(image) else from_base64(image)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise Unusable(f"image is {type(value).__name__}, not text; give base64 or the name of a file")
    return value


def single(value: Any) -> Any:
    """The value, or the only one of a list; Unusable if there are more."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) != 1:
        raise Unusable(f"the row has {len(value)} pictures; one picture per question is supported")
    return value[0]
