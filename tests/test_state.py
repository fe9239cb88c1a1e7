"""State on disk: what is kept comes back bit by bit, what is damaged counts for nothing, other searches are refused."""

import json

import pytest
import torch

from vispco import parallel
from vispco.errors import RunError
from vispco.state import Snapshot, State

FACTS = {"model": "a", "data": "b"}
ODD = torch.tensor([0.1, -0.0, torch.inf, torch.nan, 5e-324], dtype=torch.float64)


def begun(folder, **other):
    state = State(folder)
    state.check({**FACTS, **other})
    state.begin()
    return state


def bits(tensor):
    return tensor.view(torch.int64).tolist()


def test_a_check_alone_leaves_nothing(tmp_path):
    State(tmp_path / "state").check(FACTS)
    assert not list(tmp_path.iterdir())
    assert not begun(tmp_path / "state", data="other").resumed


def test_work_is_done_once(tmp_path):
    calls = []

    def compute(unit):
        calls.append(unit)
        return ODD + unit

    first = begun(tmp_path).work(["x", "y"], [5, 5], compute)
    again = begun(tmp_path).work(["y", "x", "z"], [5, 5, 5], compute)
    assert calls == [0, 1, 2]
    assert bits(again[1]) == bits(first[0])
    assert bits(again[0]) == bits(first[1])


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = begun(None)
    assert [result.tolist() for result in state.work(["x"] * 2, [1, 1], lambda unit: torch.tensor([unit]))] == [
        [0],
        [1],
    ]
    state.save("training", Snapshot(1, {}, {}))
    assert state.latest("training") is None
    assert not list(tmp_path.iterdir())


def test_progress_counts_what_is_known(tmp_path):
    seen = []
    begun(tmp_path).work(["x", "y"], [1, 1], lambda unit: torch.zeros(1), seen.append)
    begun(tmp_path).work(["x", "y"], [1, 1], lambda unit: pytest.fail("it is known"), seen.append)
    assert seen == [0, 1, 0, 1]


def test_results_are_kept_one_by_one(tmp_path):
    """What was done before a process dies is not lost."""

    def compute(unit):
        if unit == 2:
            raise KeyboardInterrupt
        return torch.tensor([unit])

    with pytest.raises(KeyboardInterrupt):
        begun(tmp_path).work(["x", "y", "z"], [1] * 3, compute)
    calls = []
    begun(tmp_path).work(["x", "y", "z"], [1] * 3, lambda unit: calls.append(unit) or torch.zeros(1))
    assert calls == [2]


def test_processes_share_work_and_the_main_one_keeps_it(tmp_path, monkeypatch):
    """As process 0 of 2: the other's results arrive when the numbers are exchanged."""
    monkeypatch.setattr(parallel, "_world", parallel._World(0, 2))
    others = torch.tensor([0.0, 7.0])
    monkeypatch.setattr(parallel, "combine", lambda mine: mine + others if mine.is_floating_point() else mine)
    state, calls = begun(tmp_path), []
    found = state.work(["x", "y"], [1, 1], lambda unit: calls.append(unit) or torch.tensor([5.0]))
    assert calls == [0]
    assert [each.tolist() for each in found] == [[5.0], [7.0]]
    monkeypatch.undo()
    kept = begun(tmp_path).work(["x", "y"], [1, 1], lambda unit: pytest.fail("it is known"))
    assert [each.tolist() for each in kept] == [[5.0], [7.0]]


def test_the_last_two_snapshots_stay(tmp_path):
    state = begun(tmp_path)
    for step in range(1, 13):
        state.save("training", Snapshot(step, {"odd": ODD * step}, {"big": 2**100 + step, "list": [0.1 * step]}))
        state.save("other", Snapshot(100 + step, {}, {}))
    assert sorted(path.name for path in tmp_path.rglob("training-*")) == [
        "training-00000011.safetensors", "training-00000012.safetensors",
    ]  # fmt: skip
    found = begun(tmp_path).latest("training")
    assert found.step == 12
    assert bits(found.tensors["odd"]) == bits(ODD * 12)
    assert found.values == {"big": 2**100 + 12, "list": [0.1 * 12]}


def test_an_older_snapshot_goes_only_when_the_new_one_can_be_read(tmp_path, monkeypatch):
    state = begun(tmp_path)
    for step in (1, 2):
        state.save("training", Snapshot(step, {}, {}))
    monkeypatch.setattr("vispco.state._pack", lambda *_: b"no snapshot")
    state.save("training", Snapshot(3, {}, {}))
    assert len(list(tmp_path.rglob("training-*"))) == 3
    assert state.latest("training").step == 2


def damages(content):
    """Every way to cut a file short and to turn one of its bits, in steps that do not fall on the same places."""
    yield from (content[:size] for size in range(0, len(content), 13))
    yield content + b"\0"
    for place in range(0, len(content), 5):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        yield bytes(changed)


def test_damaged_files_count_for_nothing(tmp_path, capsys):
    state = begun(tmp_path)
    state.work(["x"], [3], lambda unit: torch.tensor([1.0, 2.0, 3.0]))
    state.save("training", Snapshot(1, {"odd": ODD}, {}))
    state.save("training", Snapshot(2, {"odd": ODD}, {}))
    (work,) = (tmp_path / "work").iterdir()
    last = tmp_path / "snapshots" / "training-00000002.safetensors"
    for path, read, sound in (
        (work, lambda: state._known(work, 3), lambda found: found is None),
        (last, lambda: state.latest("training"), lambda found: found.step == 1),
    ):
        whole = path.read_bytes()
        for content in damages(whole):
            path.write_bytes(content)
            assert sound(read()), content
            line = capsys.readouterr().err
            assert line == f"vispco: {path} is damaged; what was in it is computed again\n"
        path.write_bytes(whole)
        assert not sound(read())


def test_results_of_another_size_or_search_count_for_nothing(tmp_path):
    begun(tmp_path / "a").work(["x"], [1], lambda unit: torch.zeros(1))
    assert begun(tmp_path / "a").work(["x"], [2], lambda unit: torch.ones(2))[0].tolist() == [1, 1]
    other = begun(tmp_path / "b", data="c")
    (tmp_path / "a" / "work").rename(tmp_path / "b" / "work")
    assert other.work(["x"], [2], lambda unit: torch.full((2,), 3.0))[0].tolist() == [3, 3]


@pytest.mark.parametrize("name", FACTS)
def test_another_search_is_refused_by_name(name, tmp_path):
    begun(tmp_path)
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(
        RunError, match=f"is of a search with {name} = '{FACTS[name]}' and not 'other'; go on with that"
    ):
        begun(tmp_path, **{name: "other"})
    assert (tmp_path / "state.json").read_bytes() == before
    assert begun(tmp_path).resumed


def test_new_facts_are_refused_where_they_are_missing(tmp_path):
    begun(tmp_path)
    with pytest.raises(RunError, match="with kernel = None and not 'step'"):
        begun(tmp_path, kernel="step")


def test_another_layout_is_refused(tmp_path):
    begun(tmp_path)
    stated = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**stated, "layout": "0"}))
    with pytest.raises(RunError, match="with layout = '0' and not '1'"):
        begun(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"layout": "1", "facts": 3}', "[" * 100_000, b"\xff"])
def test_facts_that_cannot_be_read_are_refused(content, tmp_path):
    (tmp_path / "state.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=r"state.json: cannot be read \(.*\); remove .* to begin again"):
        begun(tmp_path)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    state = begun(tmp_path)
    (tmp_path / "work").touch()
    with pytest.raises(RunError, match=r"cannot be written .*; what was found so far is kept, and the same command"):
        state.work(["x"], [1], lambda unit: torch.zeros(1))
