"""One process at a time in a run folder."""

import errno
import fcntl
import multiprocessing
import os
import signal

import pytest

from vispco.errors import RunError
from vispco.runs import alone_in

forked = multiprocessing.get_context("fork")


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    folder, ready = tmp_path / "a" / "b", forked.Event()

    def stay():
        with alone_in(folder):
            ready.set()
            signal.pause()

    first = forked.Process(target=stay)
    first.start()
    assert ready.wait(60)
    with pytest.raises(RunError, match=f"another process is at this run, {first.pid} on "), alone_in(folder):
        pass
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with alone_in(folder):
        assert (folder / ".lock").read_text().startswith(f"{os.getpid()} on ")
    with alone_in(folder):
        pass


def test_folders_that_cannot_be_locked(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be made .* choose another hydra.run.dir"), alone_in(tmp_path / "file"):
        pass

    def unknown(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with alone_in(tmp_path):
        pass
