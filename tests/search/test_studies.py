"""Where studies are kept, and that two different searches never share one."""

import json
import threading

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.storages.journal import JournalFileSymlinkLock
from studying import SPACE, make_search, measure

from vispco.errors import ConfigError
from vispco.search import Space, open_storage
from vispco.search.journal import working
from vispco.search.sampled import SampledSearch
from vispco.search.studies import open_study
from vispco.selectors import Knob


def test_no_storage_is_memory():
    assert isinstance(open_storage(None), InMemoryStorage)


def test_a_journal_is_found_from_any_folder(tmp_path, monkeypatch):
    """A relative path is the absolute one, so that locks of workers in different folders are one."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    first = make_search(where="a/study.log", trials=3).run(measure)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert make_search(where="../study.log", trials=3).run(None) == first


def test_a_lock_that_was_left_behind_is_taken_over(tmp_path, monkeypatch):
    """The one of a worker that was killed while it wrote, to a relative path."""

    class Killed(JournalFileSymlinkLock):
        def release(self):
            pass

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    make_search(where="a/study.log", trials=2).run(measure)
    with monkeypatch.context() as patch:
        patch.setattr("vispco.search.studies.JournalFileSymlinkLock", Killed)
        open_storage("a/study.log")
    assert (tmp_path / "a" / "study.log.lock").is_symlink()
    monkeypatch.setattr("vispco.search.studies.LOCK_GRACE", 3)
    assert len(make_search(where="a/study.log", trials=3).run(measure)) == 3


@pytest.mark.parametrize("tail", [b'{"op_code":4,"work', b'{"op_code":4,"worker_id":"1-2","study_id":0}'])
def test_a_torn_record_is_cut_off(tail, tmp_path):
    path = tmp_path / "study.log"
    first = make_search(where=str(path), trials=3).run(measure)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert make_search(where=str(path), trials=5).run(measure)[:3] == first
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    path.write_bytes(tail)
    assert len(make_search(where=str(path), trials=2).run(measure)) == 2


@pytest.mark.parametrize("damage", [b"{]\n", b'{"op_code": 4}\n', b"[1]\n"])
def test_a_damaged_record_is_one_line(damage, tmp_path):
    path = tmp_path / "study.log"
    make_search(where=str(path), trials=2).run(measure)
    records = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*records[:4], damage, *records[4:]]))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"storage .* (damaged|failed)"), working(str(path)):
        make_search(where=str(path), trials=3).run(measure)
    assert path.read_bytes() == before


def test_a_study_whose_only_worker_was_stopped_before_it_said_what_it_is_about_begins_again(tmp_path):
    path, first, second = tmp_path / "study.log", {"model": "a"}, {"model": "b"}

    def opened():
        return open_storage(str(path), alone=True)

    optuna.create_study(storage=opened(), study_name="first", directions=["minimize"])
    open_study(opened(), "first", first, 1)
    whole = path.read_bytes()
    optuna.create_study(storage=opened(), study_name="second", directions=["minimize"])
    assert open_study(opened(), "second", second, 1).user_attrs["identity"] == second
    assert path.read_bytes().startswith(whole)
    assert open_study(opened(), "first", first, 1).user_attrs["identity"] == first


def test_a_damaged_last_record_is_one_line(tmp_path):
    """Optuna takes it for one that is still being written, until another one follows."""
    path = tmp_path / "study.log"
    make_search(where=str(path), trials=2).run(measure)
    path.write_bytes(path.read_bytes() + b"{]\n")
    with pytest.raises(ConfigError, match="a damaged record"), working(str(path)):
        make_search(where=str(path), trials=3).run(measure)


@pytest.mark.parametrize("content", [b"my notes\nand more", b'["a"]\n1', b'{"a": 1}\n', b"notes"])
def test_other_files_are_refused_and_left_alone(content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"notes.txt' cannot be used .*no journal") as caught:
        open_storage(str(path))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("{folder}/no/study.log", "there is no folder .*no; make it"),
        ("{folder}", "choose a file that can be written"),
        ("sqlite:///{folder}/no/study.db", "a database that can be reached"),
        ("nosuch://host/db", "give a URL of SQLAlchemy"),
    ],
)
def test_storages_that_cannot_be_opened(where, words, tmp_path):
    with pytest.raises(ConfigError, match=words) as caught:
        open_storage(where.format(folder=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_new_database_is_opened_by_several_workers_at_once(tmp_path):
    """All of them find it empty and make its tables."""
    where, opened, start = f"sqlite:///{tmp_path}/study.db", [], threading.Barrier(4)

    def open_at_once():
        start.wait()
        opened.append(open_storage(where))

    threads = [threading.Thread(target=open_at_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    first = make_search(where=where, trials=3).run(measure)
    assert make_search(where=where, trials=3).run(None) == first


OTHER = Space(6, 2, {"balanced_fastv": {"alpha": Knob(0, 1), "window": Knob(1, 9, whole=True)}})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampler": "random"}, "method = 'tpe', but this search has 'random'"),
        ({"seed": 1}, "seed = 0, but this search has 1"),
        ({"budgets": (0.9,)}, r"objectives = 'cost, log\(kl \+ 0.01\)', but this search has 'log\(kl \+ 0.01\)'"),
        ({"budgets": (0.4, 0.8)}, "largest budget = 0.9, but this search has 0.8"),
        ({"space": Space(7, 2, SPACE.knobs)}, "layers = 6, but this search has 7"),
        ({"space": Space(6, 3, SPACE.knobs)}, "steps = 2, but this search has 3"),
        ({"space": OTHER}, "knobs = .*8.*, but this search has .*9.*"),
        ({"identity": {"model": "b", "split": "validation"}}, "model = 'a', but this search has 'b'"),
        ({"identity": {"model": "a"}}, "split = 'validation', but this search has None"),
    ],
)
def test_a_study_of_another_search_is_refused(change, field, tmp_path):
    options = {"where": str(tmp_path / "study.log"), "trials": 2, "identity": {"model": "a", "split": "validation"}}
    make_search(**options).run(measure)
    make_search(**options)
    with pytest.raises(ConfigError, match=f"study 'shared' has {field}; .*choose another name") as caught:
        make_search(**{**options, **change})
    assert "\n" not in str(caught.value)


def test_a_study_of_another_version_is_refused(tmp_path, monkeypatch):
    where = str(tmp_path / "study.log")
    make_search(where=where)
    monkeypatch.setattr("vispco.search.sampled.VERSION", 99)
    with pytest.raises(ConfigError, match=r"search version = [0-9]+, but this search has 99"):
        make_search(where=where)


def test_a_study_that_others_made_is_refused(tmp_path, monkeypatch):
    import optuna

    storage = open_storage(str(tmp_path / "study.log"))
    optuna.create_study(storage=storage, study_name="shared", directions=["minimize"] * 2)
    monkeypatch.setattr("vispco.search.studies.PATIENCE", 0.2)
    with pytest.raises(ConfigError, match="study 'shared' was not made by vispco"):
        make_search(where=str(tmp_path / "study.log"))


def test_of_workers_that_make_a_study_at_once_one_makes_it(tmp_path):
    """And the others are held to it, whichever is first."""
    where, start, outcomes = str(tmp_path / "study.log"), threading.Barrier(4), []

    def join(model):
        storage = open_storage(where)
        start.wait()
        try:
            SampledSearch("tpe", SPACE, (0.5,), trials=1, seed=0, storage=storage, study="s", identity={"model": model})
            outcomes.append(model)
        except ConfigError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=join, args=(model,)) for model in "aabb"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    joined, refused = ([text for text in outcomes if (len(text) == 1) == one] for one in (True, False))
    assert len(set(joined)) == 1
    assert len(joined) == len(refused) == 2
