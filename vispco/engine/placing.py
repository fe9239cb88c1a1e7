"""Which device a model is on, and its weights wherever they are."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vispco.errors import ModelError

SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of accelerate to spread a model over all devices."""


def check_device_map(device_map: str | None) -> str | None:
    """What ``from_pretrained`` is told; None for the CPU.

    Raises
    ------
    ModelError
        If there is no such device or way to spread, or accelerate, which both need, is not installed.
    """
    if device_map is None or device_map == "cpu":
        return None
    if device_map not in SPREAD:
        if not re.fullmatch(r"cuda(:\d+)?", device_map):
            raise ModelError(
                f"model.device_map={device_map} is unknown; choose cpu, cuda, cuda:0 and so on, or one of "
                f"{', '.join(SPREAD)}"
            )
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(device_map.partition(":")[2] or 0) >= count:
            raise ModelError(f"model.device_map={device_map}: {count} CUDA devices are here; choose cpu or another one")
    if find_spec("accelerate") is None:
        raise ModelError(f"model.device_map={device_map} needs accelerate; `pip install accelerate`, or choose cpu")
    return device_map


def device_of(model: Any) -> torch.device:
    """Where a model's inputs belong; a model that accelerate spreads or offloads says so itself."""
    for module in (model, model.get_input_embeddings()):
        main = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if main is not None:
            return torch.device(main)
    return torch.device(model.device)


def stored_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a model's state, sorted; those that accelerate keeps elsewhere are fetched one by one."""
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.device.type != "meta":
            yield name, tensor
            continue
        from accelerate.utils import align_module_device  # an extra, but who has such a model has it

        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        with align_module_device(module, torch.device("cpu")):
            yield name, getattr(module, own)
