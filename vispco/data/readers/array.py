"""Entries of one long JSON list, read piece by piece."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

PIECE = 2**20
"""Characters that are read at once."""
MAX_ENTRY = 2**24
"""Longest entry in characters; beyond it, what is not valid JSON is not read on."""

_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = (",", "]", " ", "\t", "\n", "\r")
_DECODER = json.JSONDecoder()


def read_array(file: TextIO) -> Iterator[tuple[int, Any]]:
    """Entries of the list that is in a file, each with the line that it begins in.

    Holds one piece, or one entry if that is longer.

    Raises
    ------
    ValueError
        If the file holds something else, from where on it cannot be read; it names the line.
    """
    text = _Text(file)
    text.take("[")
    if text.peek() == "]":
        text.take("]")
    else:
        while True:
            text.peek()
            yield text.line, text.entry()
            if text.take(",]") == "]":
                break
    if text.peek():
        raise ValueError(f"something follows the list in line {text.line}")


class _Text:
    """A window that moves over the text of a file."""

    def __init__(self, file: TextIO):
        self._file, self._window, self._at = file, "", 0
        self.line = 1

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            end = _SPACE.match(self._window, self._at).end()  # type: ignore[union-attr]
            self._pass(end)
            if end < len(self._window):
                return self._window[end]
            if not self._fill():
                return ""

    def take(self, wanted: str) -> str:
        """Pass over the next character, which has to be one of ``wanted``."""
        found = self.peek()
        if not found or found not in wanted:
            shown = repr(found) if found else "the end of the file"
            raise ValueError(f"{shown} where {' or '.join(wanted)} is expected, line {self.line}")
        self._pass(self._at + 1)
        return found

    def entry(self) -> Any:
        """Pass over one value."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
                if not isinstance(value, int | float) or self._window[end : end + 1] in _AFTER:
                    self._pass(end)
                    return value
                fault = "it is cut off"  # or the number goes on
            except RecursionError:
                raise ValueError(f"the entry in line {self.line} is nested too deep") from None
            except ValueError as error:
                fault = str(error).split(":")[0]
            if len(self._window) - self._at > MAX_ENTRY:
                raise ValueError(f"the entry in line {self.line} is no JSON, or longer than {MAX_ENTRY} characters")
            if not self._fill():
                raise ValueError(f"the entry in line {self.line} is not valid JSON: {fault}")

    def _pass(self, end: int) -> None:
        self.line += self._window.count("\n", self._at, end)
        self._at = end

    def _fill(self) -> bool:
        """Read on, twice as much each time that an entry goes on; whether there was something."""
        rest = self._window[self._at :]
        more = self._file.read(max(PIECE, len(rest)))
        self._window, self._at = rest + more, 0
        return bool(more)
