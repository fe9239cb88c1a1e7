"""Work that does not fit into memory: what was tried, and how much of it would fit."""

import gc
import re
from collections.abc import Callable
from typing import TypeVar

import torch

from vispco.errors import CapacityError

SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What a RuntimeError of torch says then, wherever its tensors are."""

Result = TypeVar("Result")


def is_exhausted(error: BaseException) -> bool:
    """Whether an exception says that memory, of the machine or of a device, has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def shortage(error: BaseException) -> str:
    """That memory has run out, with how much was asked for if the exception knows."""
    wanted = re.search(r"(?:tried|unable) to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    return "out of memory" + (f" ({wanted[0][0].lower()}{wanted[0][1:]})" if wanted else "")


def within_memory(
    run: Callable[[int], Result], size: int, setting: str, *, probe: Callable[[int], object] | None = None
) -> Result:
    """``run(size)``; where that runs out of memory, an error that says what does not.

    Parameters
    ----------
    run : callable
        Does the work on that many samples at once.
    size : int
    setting : str
        What the user sets the size with, e.g. "data.batch_size".
    probe : callable or None
        Takes as much memory as ``run`` in less time; ``run`` itself if None.

    Raises
    ------
    CapacityError
        With the first of ``size / 2``, ``size / 4`` and so on that was found to fit.
    """
    try:
        return run(size)
    except Exception as error:
        if not is_exhausted(error):
            raise
        reason = shortage(error)
    # Not inside the handler: as long as the exception lives, so does all that the failed call had in memory.
    fits, advice = size // 2, "not even one does; choose a smaller model, model.dtype or a device with more memory"
    while fits:
        if _fits(probe or run, fits):
            advice = f"{setting}={fits} fits"
            break
        fits //= 2
    raise CapacityError(f"{reason} with {size} samples at once, which {setting} sets; {advice}")


def _fits(run: Callable[[int], object], size: int) -> bool:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    try:
        run(size)
    except Exception as error:
        if not is_exhausted(error):
            raise
        return False
    return True
