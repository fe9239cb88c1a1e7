"""Attention functions that let the engine look at queries and keys on their way, and weight keys by a policy.

They are registered with transformers under names of their own and hand over to the stock function of the same backend,
so outputs are bit-equal to it. The prefill they report to travels as a keyword argument through decoder, layer and
attention: no global state.
"""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import import_utils

from vispco.engine import refusals
from vispco.engine.families import Family
from vispco.engine.families.base import ANY_BACKEND
from vispco.engine.seen import ARGUMENT, Seen
from vispco.errors import ModelError

PREFIX = "vispco_"
"""What the name of an observed backend begins with."""


def is_flash(backend: str) -> bool:
    """Whether a backend, observed or not, is one of the flash kernels."""
    return "flash" in backend


def policy_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, policy: Tensor, scaling: float
) -> Tensor:
    """Attention in which key j counts with weight m_j: ``out_i = sum_j p_ij m_j v_j / sum_j p_ij m_j``.

    The softmax normaliser cancels, so plain scaled-dot-product attention over the values ``[m v, m]`` gives numerator
    and denominator, and no gradient runs through a mask. Queries, keys and values are padded to one width, which is
    what fused kernels ask for.

    Parameters
    ----------
    query, key, value : Tensor, shape (batch, heads, tokens, head_dim)
        Heads already repeated for grouped queries.
    mask : Tensor broadcastable to (batch, heads, tokens, tokens), or None for causal
    policy : Tensor, shape (batch, tokens), in 0..1

    Returns
    -------
    Tensor, shape (batch, tokens, heads, head_dim); zeros in rows that see no key.

    Raises
    ------
    ModelError
        In float16, where the kept mass of a row underflows.
    """
    if value.dtype == torch.float16:
        raise ModelError(refusals.WEIGHTS_FLOAT16)
    width = query.shape[-1]
    pad = -(width + 1) % 8 + 1
    weight = policy[:, None, :, None].to(value.dtype)
    values = torch.cat([value * weight, weight.expand(*value.shape[:-1], 1)], dim=-1)
    out = F.scaled_dot_product_attention(
        F.pad(query, (0, pad)),
        F.pad(key, (0, pad)),
        F.pad(values, (0, pad - 1)),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
    )
    mass = out[..., width : width + 1]
    seen = mass > 0
    return torch.where(seen, out[..., :width] / torch.where(seen, mass, 1.0), 0.0).transpose(1, 2)


def _stock(backend: str, module: nn.Module) -> tuple[Any, nn.Module]:
    """The stock function of a backend, and the attention module as it has to see it."""
    if backend == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward, module
    if is_flash(backend):  # picks its kernel by the name in the module's configuration
        module = copy.copy(module)
        module.config = SimpleNamespace(_attn_implementation=backend)  # type: ignore[assignment]
    return ALL_ATTENTION_FUNCTIONS[backend], module


def _report(
    prefill: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> Tensor | None:
    """Show a layer's queries and keys to its prefill; the output if the prefill weights keys, else None."""
    scaling, softcap = options["scaling"], options.get("softcap")
    prefill.observe(Seen(query.detach(), key.detach(), mask, scaling, softcap))
    if prefill.policy is None:
        return None
    if softcap is not None:
        raise ModelError(refusals.WEIGHTS_SOFTCAP)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    tokens, tail = query.shape[2], prefill.tail
    if tail is not None:
        query, mask = query[:, :, -tail:], _last_rows(mask, tokens, tail, query.device)
    out = policy_attention(query, key, value, mask, prefill.policy.to(query.device), scaling)
    return out if tail is None else F.pad(out, (0, 0, 0, 0, tokens - tail, 0))


def _last_rows(mask: Tensor | None, tokens: int, tail: int, device: torch.device) -> Tensor:
    """The mask of the last ``tail`` queries, shape (batch or 1, 1, tail or 1, tokens)."""
    if mask is None:
        places = torch.arange(tokens, device=device)
        return (places[None] <= places[-tail:, None])[None, None]
    return mask[..., -tail:, :]


def _register(backend: str) -> None:
    # Never traced: what is reported depends on data, and a graph of this function alone would be kept for any keywords.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        prefill = kwargs.pop(ARGUMENT, None)
        if prefill is not None:
            weighted = _report(prefill, query, key, value, attention_mask, kwargs)
            if weighted is not None:
                return weighted, None
        function, module = _stock(backend, module)
        output: tuple[Tensor, Tensor | None] = function(module, query, key, value, attention_mask, **kwargs)
        return output

    AttentionInterface.register(PREFIX + backend, forward)
    AttentionMaskInterface.register(PREFIX + backend, ALL_MASK_ATTENTION_FUNCTIONS[backend])


for _backend in ANY_BACKEND:
    if _backend in ALL_MASK_ATTENTION_FUNCTIONS:  # releases differ in the flash kernels they know
        _register(_backend)


class _Observed(str):
    """Name of an observed backend; a copy of the model, and of its configuration, gets the stock one."""

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """What a copied or pickled configuration gets in its place."""
        return str, (self.removeprefix(PREFIX),)


REASONS = {
    "flex_attention": "its block masks cannot be gathered",
    **dict.fromkeys(
        (name for name in ANY_BACKEND if is_flash(name)),
        "it cannot express masks over pairs of tokens, which this model needs for images or sliding windows",
    ),
}
"""Why a backend is refused, where a reason is known."""


def check_backend(backend: str) -> None:
    """Refuse a backend before a model is opened with it.

    transformers would take any other name for a kernel on the hub, which is code, and fetch one in place of a flash
    kernel that is not installed.

    Raises
    ------
    ModelError
        If no model can be pruned under it, or it is not installed.
    """
    if backend not in ANY_BACKEND:
        reason = f" cannot be used: {REASONS[backend]}" if backend in REASONS else " is unknown"
        raise ModelError(f"attention backend {backend!r}{reason}; choose one of {', '.join(ANY_BACKEND)}")
    if is_flash(backend):
        installed = getattr(import_utils, f"is_flash_attn_{backend[-1]}_available", lambda: False)
        if not installed():
            raise ModelError(
                f"attention backend {backend!r} needs its flash-attn package and a CUDA device, and one of them is not "
                "here; install it, or choose sdpa"
            )


@contextmanager
def observed_attention(family: Family) -> Iterator[None]:
    """Switch the language model to the observed form of its attention backend, and back at the end.

    Raises
    ------
    ModelError
        If the family cannot be pruned under the backend, or the model is already observed.
    """
    text: Any = family.decoder.config
    stock: str = text._attn_implementation
    if stock.startswith(PREFIX):
        raise ModelError("this model is already being pruned; leave the inner `with` block first")
    if stock not in family.backends or PREFIX + stock not in ALL_ATTENTION_FUNCTIONS:
        reason = f": {REASONS[stock]}" if stock in REASONS else ""
        raise ModelError(
            f"attention backend {stock!r} cannot be pruned{reason}; load the model with one of "
            f"{', '.join(family.backends)}"
        )
    text._attn_implementation = _Observed(PREFIX + stock)
    try:
        yield
    finally:
        text._attn_implementation = stock


__all__ = ["check_backend", "is_flash", "observed_attention", "policy_attention"]
