"""One process at a time in a run folder: jobs of a sweep that is started again may still be at work in theirs."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vispco.errors import RunError

LOCK = ".lock"
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that have no locks; there nothing keeps processes apart."""


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Make a folder and keep other processes out of the block; a process that is killed lets go at once.

    Raises
    ------
    RunError
        If another process is in such a block, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("a+")
    except OSError as error:
        raise RunError(f"{path}: cannot be made ({error.strerror}); choose another hydra.run.dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RunError(
                f"{path}: another process is at this run, {lock.read().strip()}; wait for it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield
