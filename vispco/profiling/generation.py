"""Time to the first token and time of those after it, of one ``generate``."""

import gc
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from vispco.engine.placing import device_of
from vispco.profiling.pairs import Times, read_clocks, since, wait_for


class Generated(NamedTuple):
    """Seconds of one ``generate``, by clock: until the first token was there, and from then to the last."""

    first: Times
    rest: Times


class _FirstToken(StoppingCriteria):
    """Never stops; notes how long the first token took, which is when it is asked for the first time."""

    def __init__(self, start: Times, device: str):
        self.start, self.device = start, device
        self.elapsed: Times | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self.elapsed is None:
            self.elapsed = since(self.start, self.device)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.no_grad()
def time_generation(model: Any, inputs: Mapping[str, Tensor], new_tokens: int) -> Generated:
    """Generate ``new_tokens`` tokens after the first one, greedily, no matter whether a text would end before.

    Both times are of one call, so that decoding is not a difference between two prefills, each with its own noise.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : mapping
        Of ``generate``.
    new_tokens : int
    """
    gc.collect()
    device = device_of(model).type
    wait_for(device)
    start = read_clocks(device)
    first = _FirstToken(start, device)
    number = new_tokens + 1
    model.generate(
        **inputs, do_sample=False, min_new_tokens=number, max_new_tokens=number,
        stopping_criteria=StoppingCriteriaList([first]),
    )  # fmt: skip
    whole = since(start, device)
    assert first.elapsed is not None
    return Generated(first.elapsed, {name: whole[name] - first.elapsed[name] for name in whole})
