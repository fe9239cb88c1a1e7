"""Calls to a service that may fail or hang, kept away from the work that a process is there for."""

import sys
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Lock, Thread

from vispco.saying import as_line

PATIENCE = 60.0
"""Seconds that a call may take."""

GRACE = 5.0
"""Seconds that giving up may take."""

Call = Callable[[], object]


def warn(message: str) -> None:
    """One line on stderr."""
    print("vispco:", as_line(message), file=sys.stderr)


class Guard:
    """Makes calls one after the other in a thread of its own, until one of them fails or takes too long.

    Nothing of that reaches the caller. It is said once, in one line on stderr, and all later calls are left out.
    The thread does not keep the process alive.

    Parameters
    ----------
    service : str
        What the calls go to, for people.
    give_up : callable
        Called when a call has failed or hangs, to shut the service down as far as it goes.
    patience : float
        Seconds that :meth:`wait` waits.
    """

    def __init__(self, service: str, give_up: Call, patience: float = PATIENCE):
        self.service, self.patience = service, patience
        self._give_up = give_up
        self._calls: SimpleQueue[tuple[Call, Event] | None] = SimpleQueue()
        self._over, self._lock = Event(), Lock()
        Thread(target=self._work, name=f"{service} guard", daemon=True).start()

    def soon(self, call: Call) -> Event:
        """Make a call when those before it are through; the event tells when it was made or left out."""
        done = Event()
        if self._over.is_set():
            done.set()
        else:
            self._calls.put((call, done))
        return done

    def wait(self, call: Call) -> None:
        """Make a call, and return when it was made, or after the time of patience."""
        if not self.soon(call).wait(self.patience):
            self._stop(f"no answer within {self.patience:g} s")

    def end(self) -> None:
        """Let the thread go after the last call."""
        self._calls.put(None)

    def _work(self) -> None:
        while (entry := self._calls.get()) is not None:
            call, done = entry
            try:
                if not self._over.is_set():
                    call()
            except BaseException as error:  # in this thread even SystemExit is only a failed call
                self._stop(f"{type(error).__name__}: {error}")
            finally:
                done.set()

    def _stop(self, reason: str) -> None:
        with self._lock:
            if self._over.is_set():
                return
            self._over.set()
        warn(f"{self.service} is given up ({reason}); the results do not depend on it, and the files have them all")
        last = Thread(target=self._quietly, name=f"{self.service} end", daemon=True)
        last.start()
        last.join(GRACE)

    def _quietly(self) -> None:
        try:
            self._give_up()
        except BaseException:
            return  # whatever ails the service was said already
