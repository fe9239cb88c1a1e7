"""Peak memory of a call: tensors that it made and had at once."""

from functools import partial

import numpy as np
import torch

from vispco.profiling import peak_bytes
from vispco.testing import MODELS, Sample


def test_live_bytes_are_those_of_new_storages_until_they_are_freed():
    given = torch.ones(1000)

    def forward():
        first = given * 2  # 4000 bytes
        second = first[:500] + 1  # 2000 bytes; the slice is a view
        del first
        return given.t(), second * 1, second.double()  # 2000 and 4000 bytes

    assert peak_bytes(forward, "cpu") == 8000


def test_live_bytes_of_a_prefill_are_what_the_allocator_gave():
    tiny = MODELS["llava"]
    model, inputs = tiny.build(), tiny.inputs([Sample(3, 2, 20, seed=0)])
    forward = partial(model, **inputs, use_cache=True, logits_to_keep=1)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.no_grad():
        counted = peak_bytes(forward, "cpu")
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            forward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    assert counted == live.max()
