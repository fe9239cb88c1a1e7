"""Files that are there whole or not at all, whenever a process is killed."""

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file; after a crash there is what was there before, or all of ``content``, and it stays.

    A process that is killed may leave a file ``.NAME.PID.tmp`` behind, which nobody reads.

    Raises
    ------
    OSError
        If the place cannot be written; it is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync(path.parent)


def append_file(path: Path, content: bytes) -> None:
    """Add ``content`` at the end of a file, which is made if there is none; it is on disk when this returns.

    Raises
    ------
    OSError
        If that cannot be done; of ``content`` nothing stays then.
    """
    with path.open("ab") as file:
        before = file.tell()
    try:
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.truncate(path, before)
        raise


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk: without it a new name may be gone after a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
