"""One search in several processes, as ``torchrun`` starts them.

Every process holds the same samples, model and random numbers, and takes the same decisions. Only units of work are
shared out: a batch that is evaluated, a few samples under one schedule in a gradient step. A unit runs in the very
shape in which one process would run it, and what comes out of it is handed to all others bit by bit. So results do not
depend on the number of processes, as long as these do arithmetic alike: same machine type, releases and threads.

What is exchanged are a few numbers per sample and the unpruned model's answers, on the CPU, also if the model is on a
GPU. Outside the block of :func:`joined` there is one process, whatever the environment says.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from vispco.errors import LostError, ParallelError, VispcoError

PATIENCE = timedelta(minutes=60)
"""A process that lets the others wait for longer is taken for dead; ``torchrun`` notices one that ended at once."""

SILENCE = timedelta(seconds=10)
"""How long a process that ends waits for the main one to say why it does."""

BITS = {4: torch.int32, 8: torch.int64}
"""Integers by their bytes."""


@dataclass(frozen=True)
class _World:
    rank: int = 0
    size: int = 1
    store: Any = None


_world = _World()


def size() -> int:
    """Number of processes that work together."""
    return _world.size


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return _world.rank == 0


@contextmanager
def joined() -> Iterator[None]:
    """Inside the block the processes of ``torchrun`` work together; nothing happens where there is one.

    Raises
    ------
    ParallelError
        If the environment speaks of several processes, but not as ``torchrun`` does.
    """
    global _world
    rank, number, local = _place()
    if number == 1:
        yield
        return
    try:
        store, rank, number = next(rendezvous("env://"))
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=number, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ParallelError(f"{number} processes cannot be joined ({first}); start them with torchrun") from None
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    _world = _World(rank, number, store)
    try:
        yield
    finally:
        _world = _World()
        distributed.destroy_process_group()


def _place() -> tuple[int, int, int]:
    """Rank, number of processes, and rank on this machine, from the environment."""
    words = [os.environ.get("RANK"), os.environ.get("WORLD_SIZE") or "1", os.environ.get("LOCAL_RANK") or "0"]
    if words[1] == "1":
        return 0, 1, 0
    try:
        rank, number, local = (int(word or "") for word in words)
        if not 0 <= rank < number:
            raise ValueError
    except ValueError:
        raise ParallelError(
            f"WORLD_SIZE is {words[1]!r} and RANK is {words[0]!r}; start several processes with torchrun, or unset "
            "WORLD_SIZE"
        ) from None
    return rank, number, local


def share(units: int) -> range:
    """Which of ``units`` units this process does; each is done by one process."""
    return range(_world.rank, units, _world.size)


def combine(tensor: Tensor) -> Tensor:
    """The tensor with every process' entries, where each entry is zero in all processes but one.

    Bits are added as integers, so that negative zeros and NaN arrive as they are.

    Parameters
    ----------
    tensor : Tensor
        Of 4 or 8 bytes per entry; same shape in all processes.
    """
    if _world.size == 1:
        return tensor
    bits = tensor.detach().cpu().contiguous().view(BITS[tensor.element_size()])
    with _exchange():
        distributed.all_reduce(bits)
    return bits.view(tensor.dtype).to(tensor.device)


def hand_out(tensor: Tensor, unit: int) -> Tensor:
    """The tensor of the process that does ``unit``, on every process.

    Parameters
    ----------
    tensor : Tensor
        Of the others, only device, dtype and number of dimensions count.
    unit : int
    """
    if _world.size == 1:
        return tensor
    owner = unit % _world.size
    shape = torch.tensor(tensor.shape)
    with _exchange():
        distributed.broadcast(shape, owner)
        found = tensor.cpu().contiguous() if owner == _world.rank else tensor.new_empty(shape.tolist(), device="cpu")
        distributed.broadcast(found, owner)
    return found.to(tensor.device)


def told(fact: bool) -> bool:
    """What the main process says, whatever the others do."""
    return bool(combine(torch.tensor(int(fact and is_main()))))


def check_same(facts: Mapping[str, str]) -> None:
    """Refuse processes that would not come to the same result.

    Raises
    ------
    ParallelError
        Naming the first fact in which they differ, and what it is in this process.
    """
    agreed = _agree(*(value.encode() for value in facts.values()))
    for (name, value), same in zip(facts.items(), agreed, strict=True):
        if not same:
            raise ParallelError(
                f"the processes differ in {name}, which is {value} in process {_world.rank}; start all with the same "
                "command, releases and OMP_NUM_THREADS, on machines of one type"
            )


def check_together(what: str, *tensors: Tensor) -> None:
    """Stop before numbers of different questions are mixed.

    Raises
    ------
    VispcoError
        If the processes do not have the same tensors.
    """
    if _world.size == 1:
        return
    content = b"".join(f"{tuple(t.shape)}".encode() + t.detach().cpu().contiguous().numpy().tobytes() for t in tensors)
    if not all(_agree(content)):
        raise VispcoError(f"the processes have come to different {what}; they do arithmetic differently")


def _agree(*contents: bytes) -> list[bool]:
    """Whether each of the contents is the same in all processes."""
    if _world.size == 1:
        return [True] * len(contents)
    digests = [int.from_bytes(hashlib.sha256(each).digest()[:8], "little", signed=True) for each in contents]
    own = torch.tensor(digests)
    found = [torch.empty_like(own) for _ in range(_world.size)]
    with _exchange():
        distributed.all_gather(found, own)
    return [bool(same) for same in (torch.stack(found) == own).all(dim=0)]


@contextmanager
def _exchange() -> Iterator[None]:
    """Say what it means that the others do not answer."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise LostError(f"another process of this search has ended, or does not answer ({first})") from None


def has_to_say() -> bool:
    """Whether this process has to print why it ends: the main one always, any other if the main one goes on."""
    if _world.store is None:
        return True
    if is_main():
        _world.store.set("ended", "")
        return True
    try:
        _world.store.wait(["ended"], SILENCE)
    except distributed.DistStoreError:  # it took too long
        return True
    except RuntimeError:  # who keeps the store has ended too
        return False
    return False
