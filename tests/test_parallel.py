"""Processes that share units of work out and exchange what comes out of them."""

import math
import struct

import pytest
import torch
from processes import together

from vispco import parallel
from vispco.errors import LostError, ParallelError, VispcoError


def bits(number, kind="<f"):
    return struct.pack(kind, number)


def test_every_unit_is_done_once():
    for units in (0, 1, 5, 6):
        shares = together(lambda rank, units=units: list(parallel.share(units)), 3) if units == 5 else [range(units)]
        assert sorted(unit for share in shares for unit in share) == list(range(units))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert list(parallel.share(4)) == [0, 1, 2, 3]


SINGLE = [0.1, -0.0, math.nan, -math.inf, 1e-45, 3.4e38, 0.0]


@pytest.mark.parametrize(("dtype", "kind"), [(torch.float32, "<f"), (torch.float64, "<d"), (torch.int64, "<q")])
def test_entries_arrive_bit_by_bit(dtype, kind):
    values = [-3, 2**62, 0, 1] if dtype == torch.int64 else SINGLE

    def work(rank):
        tensor = torch.zeros(len(values), dtype=dtype)
        mine = parallel.share(len(values))
        tensor[list(mine)] = torch.tensor(values, dtype=dtype)[list(mine)]
        return [bits(value, kind) for value in parallel.combine(tensor).tolist()]

    expected = [bits(value, kind) for value in torch.tensor(values, dtype=dtype).tolist()]
    assert together(work) == [expected, expected]


def test_tensors_are_handed_out_by_whoever_made_them():
    def work(rank):
        found = []
        for unit in range(3):
            own = torch.full((unit + 1, 2, 1), 7.0 + unit) if unit in parallel.share(3) else torch.empty(0, 0, 0)
            found.append(parallel.hand_out(own, unit))
        return [(tuple(tensor.shape), tensor.unique().tolist()) for tensor in found]

    expected = [((unit + 1, 2, 1), [7.0 + unit]) for unit in range(3)]
    assert together(work) == [expected, expected]


def test_processes_that_differ_are_refused():
    def work(rank):
        with pytest.raises(ParallelError, match=f"differ in threads, which is {rank + 1} in process {rank};"):
            parallel.check_same({"torch": "2", "threads": str(rank + 1)})
        parallel.check_same({"torch": "2"})
        with pytest.raises(VispcoError, match="different schedules"):
            parallel.check_together("schedules", torch.tensor([1.0, 0.5 + rank]))
        parallel.check_together("schedules", torch.tensor([1.0, 0.5]))

    together(work)


def test_a_process_that_has_ended_is_not_waited_for():
    def work(rank):
        if rank == 0:
            with pytest.raises(LostError, match="another process of this search has ended"):
                parallel.combine(torch.zeros(1))

    together(work)


def test_one_says_why_they_end(monkeypatch):
    monkeypatch.setattr(parallel, "SILENCE", parallel.timedelta(seconds=0.5))
    assert together(lambda rank: parallel.has_to_say()) == [True, False]
    assert together(lambda rank: rank == 0 or parallel.has_to_say()) == [True, True]
    assert parallel.has_to_say()


@pytest.mark.parametrize(
    ("size", "rank"), [("4", None), ("4", "4"), ("many", "0"), ("2", ""), ("0", "0"), ("2", "-1"), ("2", "0")]
)
def test_an_environment_that_is_not_of_torchrun(size, rank, monkeypatch):
    """The last one has no address of the main process."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(ParallelError, match="torchrun"), parallel.joined():
        pass


def test_a_single_process_needs_no_environment(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(parallel.distributed, "init_process_group", lambda *_, **__: pytest.fail("it was used"))
    with parallel.joined():
        assert (parallel.size(), parallel.is_main()) == (1, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parallel.size() == 1
