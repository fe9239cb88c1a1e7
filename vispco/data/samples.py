"""Samples and the tables they are stored in."""

import base64
import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from vispco.errors import DataError

REQUIRED = ("image", "question", "answer")
MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""


@dataclass(frozen=True)
class Sample:
    """One question about one image.

    Attributes
    ----------
    index : str
        Identifies the sample within its data set.
    png : bytes
        The encoded image; decoded on demand, so that a data set fits into memory.
    question, answer : str
    slice : str
        Task slice that scores are reported by.
    split : str
        ``train``, ``validation`` or ``test``; empty if the data set has no splits.
    """

    index: str
    png: bytes
    question: str
    answer: str
    slice: str
    split: str = ""

    @cached_property
    def image(self) -> Image.Image:
        """The decoded RGB image; DataError if its pixels are damaged."""
        try:
            return Image.open(io.BytesIO(self.png)).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"sample {self.index}: image cannot be decoded ({error}); store it again") from None


def read_tsv(path: Path) -> Iterator[Sample]:
    """Read a table in the manner of VLMEvalKit: tab-separated, images in base64.

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
                yield _sample(row, f"{path}, line {table.line_num}", number)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a tab-separated table") from None


def _sample(row: dict[str, str], place: str, number: int) -> Sample:
    if any(row[name] is None for name in REQUIRED):
        raise DataError(f"{place}: the row is cut short; it needs {', '.join(REQUIRED)}")
    try:
        png = base64.b64decode(row["image"], validate=True)
        size = Image.open(io.BytesIO(png)).size
    except (ValueError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{place}: image cannot be decoded ({error}); store PNG or JPEG in base64") from None
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"{place}: image of {size[0]} x {size[1]} pixels is over the limit of {MAX_PIXELS}; shrink it")
    return Sample(
        index=row.get("index") or str(number),
        png=png,
        question=row["question"],
        answer=row["answer"],
        slice=row.get("category") or "all",
        split=row.get("split") or "",
    )
