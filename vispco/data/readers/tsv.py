"""Tables in the manner of VLMEvalKit: tab-separated, images in base64 or by name."""

import ast
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from vispco.data.readers.base import MAX_LINE, Broken, Found, Lines, Unusable
from vispco.data.readers.fields import FIELDS, MAX_TEXT, is_number, make_row
from vispco.data.readers.pictures import Folder, from_base64, single
from vispco.data.samples import Picture
from vispco.errors import DataError

COLUMNS = FIELDS - {"answers", "options"}
"""Columns that a row is made of, beside those of its picture."""
DIGITS = 64
"""Up to as many digits in ``image`` are the ``index`` of a row; an image is longer."""

Stretch = tuple[int, int]
"""Offset and length in bytes."""


def read_tsv(path: Path, images: Path | None = None) -> Iterator[Found]:
    """Rows of a table.

    Columns ``question``, ``answer``, and ``image`` or ``image_path`` must be there; the others of
    :func:`vispco.data.readers.fields.make_row` may. ``answer`` may be a printed list of texts. ``image`` may be the
    ``index`` of a row above that has the picture: of rows with pictures of their own, where they start is remembered.

    Raises
    ------
    DataError
        If the file cannot be read, or has other columns.
    """
    folder = Folder(path, images)
    csv.field_size_limit(MAX_LINE)
    try:
        with path.open("rb") as file:
            lines = Lines(file)
            records = _records(lines)
            header = _header(path, next(records, ([], (0, 0)))[0])
            above = _Above(file, header)
            for number, (cells, here) in enumerate(records, start=2):
                place = f"{path}, line {lines.number}"
                try:
                    named = _named(header, cells)
                    yield make_row(_fields(named), place, number, _picture(named, folder, above, here))
                except Unusable as error:
                    yield Broken(place, str(error))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); give a tab-separated table") from None


def _header(path: Path, header: list[str] | csv.Error) -> list[str]:
    if isinstance(header, csv.Error):
        raise DataError(f"{path}: cannot be read ({header}); give a tab-separated table")
    for name in ("image", "question", "answer"):
        if name not in header and not (name == "image" and "image_path" in header):
            raise DataError(f"{path}: column {name!r} is missing; needed are image or image_path, question and answer")
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: column {name!r} is there {header.count(name)} times; keep one")
    return header


def _records(lines: Lines) -> Iterator[tuple[list[str] | csv.Error, Stretch]]:
    """Cells of all rows, or why they cannot be told apart, and where the rows are; empty lines are none.

    A quotation mark that nothing closes costs its own line only: reading goes on with the next one.
    """
    start = lines.offset
    for line in lines:
        cells: list[str] | csv.Error
        if '"' in line:  # it may go on in the next line
            after = lines.number, lines.offset
            try:
                cells = next(csv.reader(chain([line], lines), delimiter="\t", strict=True))
            except csv.Error as error:
                cells = error
                lines.number, lines.offset = after
        else:  # the same, and several times faster on long pictures
            cells = line.rstrip("\r\n").split("\t")
        if cells != [""]:
            yield cells, (start, lines.offset - start)
        start = lines.offset


def _named(header: Sequence[str], cells: list[str] | csv.Error) -> dict[str, str]:
    """Cells by column."""
    if isinstance(cells, csv.Error):
        raise Unusable(f"the cells cannot be told apart ({cells}); look for an open quotation mark")
    if len(cells) > len(header):
        raise Unusable(f"the row has {len(cells)} cells under {len(header)} columns; look for a tab in a text")
    named = dict(zip(header, cells, strict=False))
    if not {"question", "answer"} <= set(named) or not {"image", "image_path"} & set(named):
        raise Unusable("the row is cut short; it needs image or image_path, question and answer")
    return named


def _fields(named: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: cell for name, cell in named.items() if name in COLUMNS}
    several = printed_list(named["answer"])
    if several and any(isinstance(each, str) for each in several):  # numbers alone are a box
        fields["answers"] = several
    return fields


def _picture(named: Mapping[str, str], folder: Folder, above: "_Above", here: Stretch) -> Picture:
    image, path = _image(named.get("image", "")), named.get("image_path", "")
    if path and not image:
        return folder.picture(str(single(printed_list(path) or path)))
    if image.isdecimal() and len(image) <= DIGITS:
        return from_base64(above.image(image))
    picture = from_base64(image)
    above.remember(named.get("index", ""), here)
    return picture


def _image(cell: str) -> str:
    """The base64 of a cell, which may be a printed list of one; base64 has no commas and quotation marks."""
    if cell.startswith("[") and cell.endswith("]"):
        return str(single([each.strip(" '\"") for each in cell[1:-1].split(",")]))
    return "" if cell in ("nan", "NaN") else cell


def printed_list(cell: str) -> list[Any] | None:
    """The texts and numbers of a list that was printed as Python or JSON; None if the cell is something else."""
    if not (cell.startswith("[") and cell.endswith("]") and len(cell) <= MAX_TEXT):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and found and all(isinstance(each, str) or is_number(each) for each in found):
            return found
    return None


class _Above:
    """Pictures of rows above, by their index; it remembers where the rows are, in about 100 bytes for each."""

    def __init__(self, file: BinaryIO, header: Sequence[str]):
        self._file, self._header = file, header
        self._places: dict[int, Stretch] = {}

    def remember(self, index: str, place: Stretch) -> None:
        """A row has a picture of its own."""
        if index.isdecimal() and len(index) <= DIGITS:
            self._places[int(index)] = place

    def image(self, index: str) -> str:
        """The ``image`` of that row, read again."""
        if int(index) not in self._places:
            raise Unusable(f"image is that of the row with index {index}, and no row above it has one; store it here")
        offset, length = self._places[int(index)]
        self._file.seek(offset)
        [(cells, _)] = _records(Lines(io.BytesIO(self._file.read(length))))
        return _image(_named(self._header, cells)["image"])
