"""Jobs that Hydra launches: what they print, and what becomes of those that end without a result."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

SAID = "Error executing job with overrides"
"""Hydra's line before an error of a job, which has a line of its own here."""


@contextmanager
def one_line() -> Iterator[None]:
    """Inside the block Hydra does not announce errors on the standard error stream."""
    stream = sys.stderr
    sys.stderr = _Quieter(stream)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stderr = stream


class _Quieter:
    """A stream without that line."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith(SAID) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
