"""A guard keeps failures and hangs of a service from the work: one line, then nothing."""

import threading
import time

import pytest

from vispco.runs.guard import Guard


@pytest.fixture
def blocked():
    """An event that is never set while the test runs."""
    event = threading.Event()
    yield event
    event.set()


def test_calls_are_made_in_order_and_waited_for():
    made = []
    guard = Guard("it", lambda: made.append("gave up"))
    for number in range(50):
        guard.soon(lambda number=number: made.append(number))
    guard.wait(lambda: made.append("last"))
    assert made == [*range(50), "last"]


@pytest.mark.parametrize("error", [ValueError("no\nway"), SystemExit(3), KeyboardInterrupt()])
def test_a_failure_is_one_line_and_the_end(error, capsys):
    def fail():
        raise error

    made = []
    guard = Guard("it", lambda: made.append("gave up"))
    guard.wait(fail)
    guard.wait(lambda: made.append("after"))
    assert made == ["gave up"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vispco: it is given up (")
    assert type(error).__name__ in line


def test_calls_that_were_waiting_are_left_out(capsys):
    made, go = [], threading.Event()
    guard = Guard("it", lambda: None)

    def fail():
        go.wait(5)
        raise OSError("gone")

    guard.soon(fail)
    waiting = guard.soon(lambda: made.append(1))
    go.set()
    assert waiting.wait(5)
    assert made == []
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_hang_is_waited_for_once(blocked, capsys):
    made = []
    guard = Guard("it", lambda: made.append("gave up"), patience=0.2)
    began = time.monotonic()
    guard.soon(blocked.wait)
    assert time.monotonic() - began < 0.1
    guard.wait(lambda: made.append("after"))
    for _ in range(20):
        guard.wait(lambda: made.append("later"))
    assert 0.2 <= time.monotonic() - began < 2
    assert made == ["gave up"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "no answer within 0.2 s" in line


def test_giving_up_may_hang_or_fail_too(blocked, monkeypatch, capsys):
    monkeypatch.setattr("vispco.runs.guard.GRACE", 0.1)

    def fail():
        raise OSError("gone")

    for give_up in (blocked.wait, fail):
        began = time.monotonic()
        Guard("it", give_up).wait(fail)
        assert time.monotonic() - began < 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_thread_goes_after_the_end():
    guard = Guard("quick", lambda: None)
    guard.wait(lambda: None)
    guard.end()
    deadline = time.monotonic() + 5
    while any(thread.name == "quick guard" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
