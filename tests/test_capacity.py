"""What does not fit into memory is told from what fails otherwise, and a size that fits is really found."""

import re

import numpy as np
import pytest
import torch

from vispco.capacity import is_exhausted, shortage, within_memory
from vispco.errors import CapacityError

CPU = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
GPU = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB."
SHORT = [MemoryError(), torch.OutOfMemoryError(GPU), RuntimeError(CPU + "512 bytes.")]


def limited(most, error=SHORT[1]):
    """Work for which there is memory up to a size, and the sizes that were tried."""
    tried = []

    def run(size):
        tried.append(size)
        if size > most:
            raise error
        return f"done with {size}"

    return run, tried


def test_what_fits_is_done_once():
    run, tried = limited(8)
    assert within_memory(run, 8, "data.batch_size") == "done with 8"
    assert tried == [8]


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_the_size_that_fits_was_tried(error):
    run, tried = limited(5, error)
    with pytest.raises(CapacityError, match=r"with 25 samples at once, which data\.batch_size sets; .*=3 fits$"):
        within_memory(run, 25, "data.batch_size")
    assert tried == [25, 12, 6, 3]


def test_a_quicker_trial_may_stand_for_the_work():
    run, tried = limited(0)
    probe, probed = limited(2)
    with pytest.raises(CapacityError, match="--batch=2 fits"):
        within_memory(run, 9, "--batch", probe=probe)
    assert (tried, probed) == ([9], [4, 2])


def test_where_not_even_one_fits():
    run, tried = limited(0)
    with pytest.raises(CapacityError, match="not even one does; choose a smaller model"):
        within_memory(run, 3, "search.batch")
    assert tried == [3, 1]


def test_what_is_tried_next_finds_the_memory_of_what_failed_free():
    alive = []

    class Held:
        def __del__(self):
            alive.remove(self.size)

    def run(size):
        held = Held()
        held.size = size
        assert not alive, "the tensors of the failed call are still there"
        alive.append(size)
        if size > 1:
            raise MemoryError

    with pytest.raises(CapacityError):
        within_memory(run, 4, "data.batch_size")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), KeyboardInterrupt()])
def test_other_failures_pass(error):
    assert not is_exhausted(error)
    run, tried = limited(0, error)
    with pytest.raises(type(error)):
        within_memory(run, 4, "data.batch_size")
    assert tried == [4]


def test_a_smaller_size_may_fail_otherwise():
    def run(size):
        raise MemoryError if size > 2 else ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        within_memory(run, 4, "data.batch_size")


def test_real_allocations_are_recognised():
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**60, dtype=np.uint8)
    assert is_exhausted(torchs.value)
    assert is_exhausted(numpys.value)
    assert shortage(torchs.value) == f"out of memory (tried to allocate {2**60} bytes)"
    assert re.fullmatch(r"out of memory \(unable to allocate 1\.00 EiB\)", shortage(numpys.value))
    assert shortage(SHORT[1]) == "out of memory (tried to allocate 2.50 GiB)"
    assert shortage(MemoryError()) == "out of memory"
