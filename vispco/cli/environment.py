"""What the machine refuses: a full disk, a place that may not be written, memory that has run out."""

import errno
import os
import sys
from contextlib import suppress

from vispco.capacity import is_exhausted, shortage

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)


def refusal(error: BaseException) -> str | None:
    """One line about what the machine refused; None if the error is of another kind.

    Most of these errors were given a line of their own, with the setting that they come from, where they arose. This
    one is for all others.
    """
    if is_exhausted(error):
        return (
            f"{shortage(error)}; lower data.batch_size, search.batch or the number of samples, or choose a device with "
            "more memory"
        )
    if not isinstance(error, OSError) or error.errno not in FULL + CLOSED:
        return None
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    advice = "make room" if error.errno in FULL else "choose a place that can be read and written"
    return f"{place}{error.strerror}; {advice}, then run the same command again"


def finish_output() -> None:
    """Write out what was printed, so that a disk that is full of it does not go unnoticed.

    Raises
    ------
    OSError
        If standard output takes no more; it is given up then, or Python would complain once more at its end.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
