"""Models that have the operations of large ones but neither their weights nor their arithmetic.

What an operation allocates depends on shapes. So every weight is one zero seen as many, and matrix products and
attention give zeros of the right shape at once. Everything else runs as it is: what engine and search decide from
numbers, and what is kept for a backward pass. The bytes of a step of 7 billion weights are counted in seconds.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from experiments.latency.shapes import Shape

ATEN = torch.ops.aten
SKIPPED = {
    ATEN.mm.default, ATEN.bmm.default, ATEN.addmm.default, ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward.default,
}  # fmt: skip


class NoArithmetic(TorchDispatchMode):
    """Inside the block the operations in :data:`SKIPPED` give zeros of the shape, layout and type of their results."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in SKIPPED:
            return func(*args, **(kwargs or {}))
        shapes = func(*tree_map(_shape, args), **tree_map(_shape, kwargs or {}))
        return tree_map(_zeros, shapes)


def _shape(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _zeros(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    numbers = value.untyped_storage().nbytes() // value.element_size()
    return torch.zeros(numbers, dtype=value.dtype).as_strided(value.shape, value.stride())


def build(shape: Shape, dtype: torch.dtype) -> Any:
    """A model on the CPU whose weights take no memory."""
    model = shape.build("meta", dtype)
    # Tables that are no weights come from a model with no layers and hardly a word, which is quickly built.
    small = replace(shape, text={**shape.text, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 16})
    tables = dict(small.build("cpu", dtype).named_buffers())
    for name, module in model.named_modules():
        for key, weight in module._parameters.items():
            if weight is not None:
                zero = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
                module._parameters[key] = nn.Parameter(zero, requires_grad=False)
        for key, table in module._buffers.items():
            if table is not None:
                module._buffers[key] = tables[f"{name}.{key}" if name else key]
    return model
