"""The storage of a study that fails while it is used, as on a full disk."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages.journal import JournalFileBackend

from vispco.disk import append_file
from vispco.errors import ConfigError


class WholeRecords(JournalFileBackend):
    """Optuna's journal file, in which records are whole or not at all.

    The beginning of one that could not be written to its end would be glued to the next, and no worker could read on.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records.

        Raises
        ------
        StorageInternalError
            If they cannot be written, as by a database that fails.
        """
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            self._lock.acquire()
            try:
                append_file(Path(self._file_path), content)
            finally:
                self._lock.release()
        except OSError as error:
            raise StorageInternalError(error.strerror) from None

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Records from a number on.

        Raises
        ------
        StorageInternalError
            If they cannot be read, or one of them is damaged.
        """
        try:
            yield from super().read_logs(log_number_from)
        except OSError as error:
            raise StorageInternalError(error.strerror) from None
        except (ValueError, RecursionError) as error:
            raise StorageInternalError(f"a damaged record: {error}") from None


@contextmanager
def working(where: str | None) -> Iterator[None]:
    """Inside the block a storage that fails is the user's to mend.

    Raises
    ------
    ConfigError
    """
    try:
        yield
    except (StorageInternalError, RecursionError) as error:  # the latter of values that are nested too deep
        reason = (str(error.__cause__ or error).strip().splitlines() or ["no reason given"])[0]
        raise ConfigError(
            f"storage {where!r} failed ({reason}); finished trials are in it, mend it and run the same command again"
        ) from None
