"""Studies that many processes share: where they are kept, and what keeps two different searches out of one.

A storage is memory, a journal file on a file system that all workers see, or a database. A study is made by exactly one
worker, who writes down what it is about; everybody else is held to that. What is stored is plain Optuna, so that
``optuna-dashboard FILE_OR_URL`` shows a study while it runs.
"""

import json
import random
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState
from pydantic import JsonValue
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from vispco.errors import ConfigError
from vispco.search.journal import WholeRecords

VERSION = 2
"""Of what proposals and objectives mean; trials of another version do not belong into one study with ours."""

IDENTITY = "identity"
"""Attribute of a study: what it is about."""

PATIENCE = 10.0
"""Seconds that a study may be without identity: its maker is about to write it."""

LOCK_GRACE = 30
"""Seconds after which the lock of a journal is taken from a worker that was killed while it wrote."""

ATTEMPTS = 8
"""Times that a database is opened: the workers that find it empty make its tables at once, and all but one fail."""


def open_storage(where: str | None, *, alone: bool = False) -> BaseStorage:
    """The storage at a path, a URL, or in memory.

    Parameters
    ----------
    where : str or None
        Memory if None; a database if it has ``://``; otherwise the path of a journal.
    alone : bool
        Nobody else works on this journal. Trials that no worker finished are then as if they had never begun, so that
        the search goes on as it would have gone; among several workers such a trial fails, and another repeats it.

    Raises
    ------
    ConfigError
        If it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if where is None:
        return InMemoryStorage()
    return _open_database(where) if "://" in where else _open_journal(where, alone)


def _open_database(url: str) -> RDBStorage:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return RDBStorage(url)
        except (ArgumentError, ImportError) as error:
            raise _unusable(url, error, "give a URL of SQLAlchemy and install its driver") from None
        except (SQLAlchemyError, StorageInternalError) as error:
            if attempt == ATTEMPTS:
                raise _unusable(url, error, "give the URL of a database that can be reached") from None
            time.sleep(random.uniform(0.05, 0.3))
    raise AssertionError


def _open_journal(where: str, alone: bool) -> JournalStorage:
    # The lock is a link to the journal: with a relative path it would dangle, and a lock that a killed worker left
    # behind would never be taken over.
    path = Path(where).expanduser().resolve()
    if not path.parent.is_dir():
        raise ConfigError(f"storage {where!r}: there is no folder {path.parent}; make it or choose another path")
    try:
        lock = JournalFileSymlinkLock(str(path), grace_period=LOCK_GRACE)
        backend = WholeRecords(str(path), lock_obj=lock)
        _trim(path, lock, alone)
        return JournalStorage(backend)
    except OSError as error:
        raise _unusable(where, error, "choose a file that can be written") from None
    except Exception as error:  # whatever Optuna meets in a journal that it believes
        raise _unusable(where, error, "it is no journal of Optuna, or a damaged one; choose another file") from None


def _unusable(where: str, error: Exception, advice: str) -> ConfigError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConfigError(f"storage {where!r} cannot be used ({reason}); {advice}")


def _trim(path: Path, lock: JournalFileSymlinkLock, alone: bool) -> None:
    """Cut off a last line that a crash tore: the next record would be glued to it, and nobody could read on.

    In a journal of one worker also what was begun and not brought to its end: see :func:`_unfinished`.
    """
    lock.acquire()
    try:
        with path.open("rb+") as file:
            content = file.read()
            if content and not _is_journal(content):
                raise ValueError("its first line is no record")
            content = content[: content.rfind(b"\n") + 1]
            file.truncate(len(content) - (_unfinished(content) if alone else 0))
    finally:
        lock.release()


def _unfinished(content: bytes) -> int:
    """Bytes from the first trial on that no finished one follows, or from a study that has no identity yet.

    0 if there is neither.
    """
    length = 0
    begun: dict[JournalOperation, int] = {}
    for line in content.splitlines(keepends=True):
        record = json.loads(line)
        operation = record["op_code"]
        if operation in (JournalOperation.CREATE_STUDY, JournalOperation.CREATE_TRIAL):
            begun.setdefault(JournalOperation(operation), length)
        elif operation == JournalOperation.SET_STUDY_USER_ATTR and IDENTITY in record["user_attr"]:
            begun.pop(JournalOperation.CREATE_STUDY, None)
        elif operation == JournalOperation.SET_TRIAL_STATE_VALUES and record["state"] == TrialState.COMPLETE:
            begun.pop(JournalOperation.CREATE_TRIAL, None)
        length += len(line)
    return length - min(begun.values(), default=length)


def _is_journal(content: bytes) -> bool:
    """Whether these are records of Optuna, of which the first may be the torn one."""
    first, newline, _ = content.partition(b"\n")
    return "op_code" in json.loads(first) if newline else first.startswith(b'{"op_code"')


def open_study(storage: BaseStorage, name: str, identity: Mapping[str, JsonValue], objectives: int) -> optuna.Study:
    """The study called ``name``, made if there is none.

    Parameters
    ----------
    storage : BaseStorage
    name : str
    identity : mapping
        What all its workers must agree in, as JSON.
    objectives : int
        Number of values that are minimised.

    Raises
    ------
    ConfigError
        If the study is about something else; names the first field that differs, and both values.
    """
    ours = json.loads(json.dumps(dict(identity)))
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=["minimize"] * objectives)
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
        _check(study, ours)
    else:
        study.set_user_attr(IDENTITY, ours)
    return study


def _check(study: optuna.Study, ours: Mapping[str, JsonValue]) -> None:
    deadline = time.monotonic() + PATIENCE
    while (theirs := study.user_attrs.get(IDENTITY)) is None:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"study {study.study_name!r} was not made by vispco, or its maker was stopped before it wrote down "
                "what the study is about; choose another name (study=...)"
            )
        time.sleep(0.05)
    if not isinstance(theirs, dict):
        raise ConfigError(f"study {study.study_name!r} is damaged: its identity is {theirs!r}; choose another name")
    for field in [*ours, *(field for field in theirs if field not in ours)]:
        if theirs.get(field) != ours.get(field):
            raise ConfigError(
                f"study {study.study_name!r} has {field} = {theirs.get(field)!r}, but this search has "
                f"{ours.get(field)!r}; search as it does, or choose another name (study=...)"
            )
