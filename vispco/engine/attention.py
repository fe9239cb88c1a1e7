"""Attention functions that let the engine look at queries and keys on their way, and weight keys by a policy.

They are registered with transformers under names of their own and hand over to the stock function of the same backend,
so outputs are bit-equal to it. The prefill they report to travels as a keyword argument through decoder, layer and
attention: no global state.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vispco.errors import ModelError

ARGUMENT = "vispco_prefill"
"""Keyword under which the prefill travels."""

BACKENDS = ("sdpa", "eager")
"""Attention implementations that can be pruned."""


class Observer(Protocol):
    """What an attention function reports to."""

    def observe(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Look at a layer's queries and keys."""


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
    """
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


def _stock(backend: str, module: nn.Module) -> Any:
    if backend == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[backend]


def _register(backend: str) -> None:
    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        prefill = kwargs.pop(ARGUMENT, None)
        if prefill is not None:
            prefill.observe(query, key, kwargs["scaling"])
            policy = getattr(prefill, "policy", None)
            if policy is not None:
                groups = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
                return policy_attention(query, key, value, attention_mask, policy, kwargs["scaling"]), None
        output: tuple[Tensor, Tensor | None] = _stock(backend, module)(
            module, query, key, value, attention_mask, **kwargs
        )
        return output

    AttentionInterface.register(f"vispco_{backend}", forward)
    AttentionMaskInterface.register(f"vispco_{backend}", ALL_MASK_ATTENTION_FUNCTIONS[backend])


for _backend in BACKENDS:
    _register(_backend)


@contextmanager
def observed_attention(model: Any) -> Iterator[None]:
    """Switch the language model to the observed form of its attention backend, and back at the end.

    Raises
    ------
    ModelError
        If the backend is not one of :data:`BACKENDS`, or is already observed.
    """
    text = model.config.get_text_config()
    stock = text._attn_implementation
    if stock.startswith("vispco_"):
        raise ModelError("this model is already being pruned; leave the inner `with` block first")
    if stock not in BACKENDS:
        raise ModelError(f"attention backend {stock!r} cannot be pruned yet; load the model with one of {BACKENDS}")
    text._attn_implementation = f"vispco_{stock}"
    try:
        yield
    finally:
        text._attn_implementation = stock
