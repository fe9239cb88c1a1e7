"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path

from vispco.disk import replace_file
from vispco.errors import RunError


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content``; see :func:`vispco.state.replace_file`.

    Raises
    ------
    RunError
        If the place cannot be written; an earlier file there is unharmed and no temporary one stays.
    """
    try:
        replace_file(Path(path), content)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); choose a place in a writable folder") from None


def check_writable(path: Path) -> None:
    """Refuse a place for a result before the long work.

    Raises
    ------
    RunError
        If nothing can be written there.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); choose a place in a writable folder") from None
