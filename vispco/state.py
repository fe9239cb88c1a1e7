"""Files that are whole or not there: nobody, after a crash or on a full disk, finds half of one."""

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``, in place of a file that may be there; it is on disk when this returns.

    It is written under a temporary name in the same folder, which no reader takes for anything, and then renamed.

    Raises
    ------
    OSError
        If that cannot be done; an earlier file is unharmed then, and no temporary one stays.
    """
    temporary = path.with_name(f".vispco.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError, ValueError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


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


def _sync_folder(path: Path) -> None:
    """Make a folder's names outlast a loss of power, where the file system knows how to."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
