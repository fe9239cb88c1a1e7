"""Jobs that Hydra launches: what they print, and what becomes of those that end without a result."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from vispco.errors import LostError

FOLDER = "run folder of this job: "
"""First thing that a job of a sweep prints, by which its log can be told."""
SAID = "Error executing job with overrides"
"""Hydra's line before an error of a job, which has a line of its own here."""


@contextmanager
def one_line() -> Iterator[None]:
    """Inside the block Hydra does not announce errors on the standard error stream."""
    stream = sys.stderr
    sys.stderr = _Quieter(stream)
    try:
        yield
    finally:
        sys.stderr = stream


@contextmanager
def waiting() -> Iterator[None]:
    """Turn the end of a job without a result into one line, after the jobs that run on this machine have ended.

    Raises
    ------
    LostError
    """
    try:
        yield
    except RuntimeError as error:
        submitit = sys.modules.get("submitit.core.utils")
        if submitit is None or not isinstance(error, submitit.UncompletedJobError):
            raise
        with suppress(ChildProcessError):  # nobody is left
            while True:
                os.wait()
        raise LostError(_told_of(str(error))) from None


def _told_of(error: str) -> str:
    """Which job, where its log is, and what to do."""
    found = re.search(r"\S*/(\w+)_\d+_(?=result\.pkl|log\.err)", error)
    if found is None:
        return f"a job ended without a result ({' '.join(error.split())}); run the same command again"
    log = Path(found[0] + "log.err")
    folders = [line.removeprefix(FOLDER) for line in _lines(log.with_suffix(".out")) if line.startswith(FOLDER)]
    return (
        f"job {found[1]} ended without a result{f', in {folders[-1]}' if folders else ''}; its log is {log}; "
        "when no job is left, run the same command again, which does what is missing"
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def in_background() -> bool:
    """Whether this process is a job of submitit, with a log that nobody watches."""
    return "SUBMITIT_EXECUTOR" in os.environ


class _Quieter:
    """A stream without that line."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith(SAID) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
