"""JSON Lines: one object per line."""

import json
from collections.abc import Iterator
from pathlib import Path

from vispco.data.readers.base import Broken, Found, Lines, Unusable
from vispco.data.readers.fields import make_row
from vispco.data.readers.pictures import Folder, picture_of
from vispco.errors import DataError


def read_jsonl(path: Path, images: Path | None = None) -> Iterator[Found]:
    """Rows with the fields of :func:`~vispco.data.readers.fields.make_row`.

    The picture is that of :func:`~vispco.data.readers.pictures.picture_of`. Other fields are not looked at.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    folder = Folder(path, images)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(Lines(file), start=1):
                if not line.strip():
                    continue
                place = f"{path}, line {number}"
                try:
                    fields = _object(line)
                    yield make_row(fields, place, number, picture_of(fields, folder))
                except Unusable as error:
                    yield Broken(place, str(error))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); give a file of JSON objects, one per line") from None


def _object(line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"it is not valid JSON ({error}); give one object per line") from None
    if not isinstance(found, dict):
        raise Unusable(f"it is {type(found).__name__}, not a JSON object; give one object per line")
    return found
