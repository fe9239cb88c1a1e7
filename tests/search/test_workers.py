"""Workers that share a study: every trial is told once or has failed, whoever dies, and the total is right."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
import time

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState
from studying import make_search, measure, wait_for, work

from vispco.search import Measured, open_storage
from vispco.search.leases import Leases, _born

TRIALS = 24

forked = multiprocessing.get_context("fork")  # to import everything anew takes a hundred times as long as the work


def start(where, logs, quotas):
    """Workers that all begin together, after each has come as far as resting at its quota."""
    folder = logs[0].parent
    processes = [
        forked.Process(target=work, args=(where, str(log), TRIALS, quota, 0.02), daemon=True)
        for log, quota in zip(logs, quotas, strict=True)
    ]
    for process in processes:
        process.start()
    wait_for(lambda: all(log.exists() for log in logs))
    (folder / "go").touch()
    wait_for(lambda: all(len(log.read_text().split()) == quota for log, quota in zip(logs, quotas, strict=True)))
    return processes


def test_four_workers_one_killed(tmp_path):
    """The fourth is killed in the middle of its third trial; the others take that over."""
    where = str(tmp_path / "study.log")
    logs = [tmp_path / f"{index}.txt" for index in range(4)]
    processes = start(where, logs, (5, 5, 5, 3))
    os.kill(processes[3].pid, signal.SIGKILL)
    processes[3].join()
    (tmp_path / "on").touch()
    for process in processes[:3]:
        process.join(120)
        assert process.exitcode == 0
    assert processes[3].exitcode == -signal.SIGKILL

    measured = collections.Counter(int(number) for log in logs for number in log.read_text().split())
    assert set(measured.values()) == {1}, "a trial was measured twice"
    study = optuna.load_study(study_name="shared", storage=open_storage(where))
    states = {trial.number: trial.state for trial in study.trials}
    assert set(states.values()) == {TrialState.COMPLETE, TrialState.FAIL}
    complete = [number for number, state in states.items() if state == TrialState.COMPLETE]
    assert len(complete) == TRIALS
    assert set(complete) <= set(measured)

    lost = int(logs[3].read_text().split()[2])
    assert set(measured) - set(complete) == {lost}
    repeats = [trial for trial in study.trials if trial.user_attrs.get("retry_of") == lost]
    assert [trial.state for trial in repeats].count(TrialState.COMPLETE) == 1, "several may notice, one repeats it"
    assert repeats[0].params == study.trials[lost].params
    proposals = [tuple(trial.params.values()) for trial in study.trials if trial.number in complete]
    assert len(set(proposals)) == TRIALS, "two workers drew the same"

    late = make_search(where=where, trials=TRIALS)
    told = late.run(None)
    assert [trial.number for trial in told] == sorted(complete)
    assert all(trial.measured == measure(trial.number, trial.proposal) for trial in told)
    assert len(late.study.trials) == len(states)


def die_while_writing(where, number, told):
    """A worker that stops for ever in the middle of its write number ``number``: it holds the journal's lock."""
    release = JournalFileSymlinkLock.release
    writes = itertools.count(1)

    def hang(lock):
        if next(writes) == number:
            told.set()
            time.sleep(1000)
        release(lock)

    JournalFileSymlinkLock.release = hang
    make_search(where=where, trials=TRIALS).run(measure)


@pytest.mark.parametrize("number", [3, 12, 40])
def test_one_is_killed_while_it_holds_the_lock(number, tmp_path, monkeypatch):
    monkeypatch.setattr("vispco.search.studies.LOCK_GRACE", 2)
    where, told = str(tmp_path / "study.log"), forked.Event()
    killed = forked.Process(target=die_while_writing, args=(where, number, told), daemon=True)
    killed.start()
    assert told.wait(60)
    logs = [tmp_path / f"{index}.txt" for index in range(3)]
    (tmp_path / "go").touch()
    others = [
        forked.Process(target=work, args=(where, str(log), TRIALS, -1), kwargs={"grace": 5.0}, daemon=True)
        for log in logs
    ]
    for process in others:
        process.start()
    os.kill(killed.pid, signal.SIGKILL)
    for process in [killed, *others]:
        process.join(120)
    assert [process.exitcode for process in [killed, *others]] == [-signal.SIGKILL, 0, 0, 0]
    told_of = make_search(where=where, trials=TRIALS).run(None)
    assert len(told_of) == TRIALS
    assert all(trial.measured == measure(trial.number, trial.proposal) for trial in told_of)
    study = optuna.load_study(study_name="shared", storage=open_storage(where))
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    proposals = [tuple(trial.params.values()) for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(set(proposals)) == TRIALS


def test_all_killed_and_resumed(tmp_path):
    where, logs = str(tmp_path / "study.log"), [tmp_path / f"{index}.txt" for index in range(4)]
    for process in start(where, logs, (2, 2, 2, 2)):
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    search = make_search(where=where, trials=TRIALS)
    assert [trial.state for trial in search.study.trials].count(TrialState.RUNNING) == 4
    told = search.run(measure)
    assert len(told) == TRIALS
    trials = search.study.trials
    failed = {trial.number for trial in trials if trial.state == TrialState.FAIL}
    assert failed == {trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs}
    assert len(failed) == 4
    assert len(trials) == TRIALS + 4


@pytest.mark.parametrize("late", ["measuring", "telling"])
def test_a_worker_taken_for_dead_tells_nothing(late, tmp_path):
    """While it is at a trial, another worker gives that up and finishes the study."""
    where, others = str(tmp_path / "study.log"), []
    slow = make_search(where=where, trials=8, beat=1000.0)
    tell = slow.study.tell

    def overtake():
        others.extend(make_search(where=where, trials=8, grace=0.2).run(measure))

    def measure_late(number, proposal):
        if number != 3:
            return measure(number, proposal)
        if late == "measuring":
            overtake()
        return Measured(0.123, 0.456)

    def tell_late(trial, values, state):
        if late == "telling" and trial.number == 3:
            overtake()
        return tell(trial, values, state)

    slow.study.tell = tell_late
    told = slow.run(measure_late)
    assert told == others
    assert len(told) == 8
    assert slow.study.trials[3].state == TrialState.FAIL
    assert 0.123 not in [trial.measured.cost for trial in told]
    assert sum(trial.user_attrs.get("retry_of") == 3 for trial in slow.study.trials) == 1


def test_a_worker_that_renews_its_lease_is_waited_for(tmp_path):
    where, seen = str(tmp_path / "study.log"), []

    def slowly(number, proposal):
        if number == 1:
            other = threading.Thread(
                target=lambda: seen.append(make_search(where=where, trials=2, grace=0.6).run(measure))
            )
            other.start()
            seen.append(other)
            time.sleep(2.0)
            assert len(seen) == 1, "the other worker did not wait"
        return measure(number, proposal)

    told = make_search(where=where, trials=2, beat=0.1).run(slowly)
    seen[0].join()
    assert seen[1] == told
    assert [trial.number for trial in told] == [0, 1]


def test_clocks_of_other_machines_play_no_part(monkeypatch):
    """What counts is that the lease has not changed for a while, by the watcher's clock."""
    study = optuna.create_study()
    trial, leases = study.ask(), Leases(study, grace=60.0)
    trial.set_user_attr("lease", {"host": "far", "pid": os.getpid(), "machine": "another", "born": "1"})
    now = [1000.0]
    monkeypatch.setattr("vispco.search.leases.time.monotonic", lambda: now[0])
    for renewed, step, state in ((5.0, 59, "RUNNING"), (4.0, 59, "RUNNING"), (4.0, 2, "FAIL")):
        trial.set_user_attr("renewed", renewed)
        leases.reclaim()
        now[0] += step
        leases.reclaim()
        assert study.trials[0].state.name == state


@pytest.mark.skipif(not Leases(optuna.create_study())._machine, reason="processes cannot be seen on this system")
def test_on_one_machine_the_dead_are_known_at_once():
    """Also where the number of the process has been given to another one since."""
    study = optuna.create_study()
    leases = Leases(study)
    ours = {"host": "here", "pid": os.getpid(), "machine": leases._machine, "born": _born(os.getpid())}
    ended = forked.Process(target=print)
    ended.start()
    pid = ended.pid
    ended.join()
    for lease, state in ((ours, "RUNNING"), ({**ours, "born": "1"}, "FAIL"), ({**ours, "pid": pid}, "FAIL")):
        trial = study.ask()
        trial.set_user_attr("lease", lease)
        leases.reclaim()
        assert study.trials[trial.number].state.name == state
        if state == "FAIL":
            study.tell(study.ask(), 0.0)


def test_a_zombie_is_dead():
    child = os.fork()
    if child == 0:
        os._exit(0)
    wait_for(lambda: _born(child) is None)
    os.waitpid(child, 0)


def test_a_trial_without_lease_is_given_up_as_well():
    """Its worker was killed between the question and the signature."""
    study = optuna.create_study()
    study.ask()
    leases = Leases(study, grace=0.1)
    leases.reclaim()
    assert study.trials[0].state == TrialState.RUNNING
    time.sleep(0.2)
    leases.reclaim()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_two_who_notice_a_death_queue_it_once(tmp_path):
    where = str(tmp_path / "study.log")
    search = make_search(where=where)
    search.space.propose(search.study.ask())
    others = [make_search(where=where) for _ in range(4)]
    (dead,) = search.study.get_trials(deepcopy=False)
    barrier = threading.Barrier(4)

    def give_up(other):
        barrier.wait()
        other.leases.give_up(dead)

    threads = [threading.Thread(target=give_up, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    states = [trial.state for trial in search.study.trials]
    assert states == [TrialState.FAIL, TrialState.WAITING]


def test_a_death_that_two_queued_is_repeated_once():
    """SQLite does not lock rows, so two workers may both believe that they were the first to give a trial up."""
    search, calls = make_search(trials=4), []
    trial = search.study.ask()
    search.space.propose(trial)
    search.leases.give_up(search.study.trials[0])
    search.study.enqueue_trial(search.study.trials[0].params, user_attrs={"retry_of": 0})

    def count(number, proposal):
        calls.append(number)
        return measure(number, proposal)

    assert len(search.run(count)) == 4
    assert calls == [1, 3, 4, 5]
    assert [trial.number for trial in search.study.trials if trial.state == TrialState.FAIL] == [0, 2]


def test_one_too_many_is_not_measured(tmp_path):
    """Two workers see room for the last trial; the one with the higher number withdraws."""
    where, asked = str(tmp_path / "study.log"), []
    search, rival = make_search(where=where, trials=3), make_search(where=where, trials=3)
    ask = search.study.ask

    def ask_late():
        if len(asked) == 2:
            rival.run(measure)
        asked.append(ask())
        return asked[-1]

    search.study.ask = ask_late
    told = search.run(measure)
    assert [trial.number for trial in told] == [0, 1, 2]
    assert [trial.state for trial in search.study.trials] == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]


def test_a_storage_that_is_away_for_a_moment_does_not_end_the_renewals():
    study, told = optuna.create_study(), []

    class Trial:
        def set_user_attr(self, name, value):
            told.append(name)
            if told.count("renewed") == 1 and name == "renewed":
                raise StorageInternalError("gone")

    with Leases(study, beat=0.02).hold(Trial()):
        wait_for(lambda: told.count("renewed") > 3)
    assert told[0] == "lease"
