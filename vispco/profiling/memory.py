"""Peak memory of a call."""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def peak_bytes(forward: Callable[[], Any], device: str) -> int:
    """Most bytes of tensors alive at once during a call, beyond those alive before it (weights and inputs)."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward()
        return int(torch.cuda.max_memory_allocated() - before)
    live = LiveBytes()
    with live:
        forward()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensor storages that operations make, until they are freed.

    Memory that a kernel takes and gives back within one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        # A storage that is first seen as an argument was there before: a weight or an input.
        self._meet((args, kwargs), new=False)
        output = func(*args, **(kwargs or {}))
        self._meet(output, new=True)
        return output

    def _meet(self, tree: Any, *, new: bool) -> None:
        for value in tree_iter(tree):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in self._known:
                storage = value.untyped_storage()
                size = storage.nbytes() if new else 0
                self.live += size
                self.peak = max(self.peak, self.live)
                self._known[storage._cdata] = ref(storage, partial(self._forget, storage._cdata, size))

    def _forget(self, address: int, size: int, _: Any) -> None:
        del self._known[address]
        self.live -= size
