"""Leases: who is at a trial, and what becomes of it when that worker dies.

A worker that was killed cannot say so, and its trial would run for ever. So every worker signs the trials that it
measures and renews the signature while it lives. A trial is given up if its worker is known to be gone, which can be
seen on the same machine, or if its signature has not changed for a while on the watcher's own clock, so that clocks of
different machines need not agree. It is then marked as failed, exactly once whoever notices, and its parameters are
queued again, once: what has brought down two workers is not tried on a third.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

BEAT = 10.0
"""Seconds between two renewals."""

GRACE = 60.0
"""Seconds without renewal after which a worker counts as dead."""

LEASE, RENEWED, RETRY_OF = "lease", "renewed", "retry_of"
"""Attributes of a trial: its worker, the time of the last renewal (Unix), and the number that it repeats."""


def _machine() -> str:
    """Where process numbers mean the same as here; empty if the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """Start time of a process, which tells it from a later one of the same number; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


class Leases:
    """The leases of one worker, and its eye on those of the others.

    Parameters
    ----------
    study : optuna.Study
    beat, grace : float
        In seconds, see :data:`BEAT` and :data:`GRACE`; the same for all workers of a study.
    """

    def __init__(self, study: optuna.Study, beat: float = BEAT, grace: float = GRACE):
        self.study, self.beat, self.grace = study, beat, grace
        self._machine = _machine()
        self._seen: dict[int, tuple[Any, float]] = {}

    @contextmanager
    def hold(self, trial: Trial) -> Iterator[None]:
        """Sign a trial, and renew the signature until the end of the block."""
        pid = os.getpid()
        signature = {"host": socket.gethostname(), "pid": pid, "machine": self._machine, "born": _born(pid)}
        trial.set_user_attr(LEASE, signature)
        ended = threading.Event()
        thread = threading.Thread(target=self._renew, args=(trial, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _renew(self, trial: Trial, ended: threading.Event) -> None:
        while not ended.wait(self.beat):
            try:
                trial.set_user_attr(RENEWED, time.time())
            except UpdateFinishedTrialError:
                return  # others took this worker for dead; it hears of that when it tells its result
            except StorageInternalError:
                continue  # a database that cannot be reached now may be there at the next beat

    def reclaim(self) -> None:
        """Give up the trials of dead workers; not to be called while this worker holds one."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_dead(trial):
                self.give_up(trial)

    def give_up(self, trial: FrozenTrial) -> None:
        """Mark a trial as failed and queue its parameters, unless somebody else did."""
        try:
            self.study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            return
        if RETRY_OF not in trial.user_attrs:
            self.study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})

    def _is_dead(self, trial: FrozenTrial) -> bool:
        lease = trial.user_attrs.get(LEASE)
        if lease and self._machine and lease["machine"] == self._machine and lease["born"] != _born(lease["pid"]):
            return True
        now, sign = time.monotonic(), (bool(lease), trial.user_attrs.get(RENEWED))
        last, since = self._seen.get(trial.number, (None, now))
        if last != sign:
            since = now
        self._seen[trial.number] = (sign, since)
        return now - since > self.grace
