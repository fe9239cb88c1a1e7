"""What a reader finds in a table, and the lines that it finds it in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from vispco.data.samples import MAX_BYTES, Row

MAX_LINE = 2 * MAX_BYTES
"""Longest line in bytes: a picture in base64 and its texts. A longer one is read as several, which are broken rows."""


@dataclass(frozen=True)
class Broken:
    """A row that cannot be used.

    Attributes
    ----------
    place : str
        File and line.
    reason : str
        What is wrong with it, and the next step.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class Pictureless:
    """A row that is about no picture, in a format where that is usual; it is passed over, and counted."""

    place: str


Found: TypeAlias = Row | Broken | Pictureless

Reader: TypeAlias = Callable[[Path, Path | None], Iterator[Found]]
"""From a table, and the folder of its image files (None: that of the table), to what is in it, row by row.

DataError if it is no such table, or cannot be read on.
"""


class Unusable(Exception):
    """Why one row cannot be used; readers turn it into :class:`Broken`."""


class Lines:
    """Lines of a UTF-8 file, however long it is; reading goes on wherever ``offset`` is set to.

    Bytes that are no UTF-8 come as surrogates, so that they spoil only the row that they are in.

    Attributes
    ----------
    number, offset : int
        Lines, and bytes, up to the end of the last one.
    """

    def __init__(self, file: BinaryIO):
        self._file, self.number, self.offset = file, 0, 0

    def __iter__(self) -> "Lines":
        """Itself."""
        return self

    def __next__(self) -> str:
        """The next line with its end."""
        self._file.seek(self.offset)
        line = self._file.readline(MAX_LINE)
        if not line:
            raise StopIteration
        first = self.offset == 0
        self.offset += len(line)
        self.number += 1
        return line.decode("utf-8-sig" if first else "utf-8", "surrogateescape")
