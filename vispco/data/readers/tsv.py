"""Tables in the manner of VLMEvalKit: tab-separated, images in base64."""

import base64
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from vispco.data.samples import Picture, Row
from vispco.errors import DataError

REQUIRED = ("image", "question", "answer")


def read_tsv(path: Path) -> Iterator[Row]:
    """Rows of a table.

    Columns ``image``, ``question`` and ``answer`` must be there; ``index``, ``category`` (the slice) and ``split`` may.

    Raises
    ------
    DataError
        Naming the file and the line of the first row that cannot be used.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, delimiter="\t")
            missing = [name for name in REQUIRED if name not in (table.fieldnames or ())]
            if missing:
                raise DataError(f"{path}: column {missing[0]!r} is missing; needed are {', '.join(REQUIRED)}")
            for number, row in enumerate(table, start=2):
                yield _row(row, f"{path}, line {table.line_num}", number)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a tab-separated table") from None


def _row(row: dict[str, str], place: str, number: int) -> Row:
    if any(row[name] is None for name in REQUIRED):
        raise DataError(f"{place}: the row is cut short; it needs {', '.join(REQUIRED)}")
    try:
        picture = Picture(base64.b64decode(row["image"], validate=True))
    except ValueError as error:
        raise DataError(f"{place}: image cannot be decoded ({error}); store PNG or JPEG in base64") from None
    try:
        picture.size()
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None
    return Row(
        index=row.get("index") or str(number),
        place=place,
        picture=picture,
        question=row["question"],
        answers=(row["answer"],),
        slice=row.get("category") or "all",
        split=row.get("split") or "",
    )
