"""What travels between the engine and attention functions."""

from dataclasses import dataclass

from torch import Tensor

ARGUMENT = "vispco_prefill"
"""Keyword under which a layer's prefill travels to its attention function."""


@dataclass(frozen=True)
class Seen:
    """What an attention function gets.

    Attributes
    ----------
    query : Tensor, shape (batch, heads, tokens, head_dim)
        After rotary embedding, like ``key``.
    key : Tensor, shape (batch, kv_heads, tokens, head_dim)
    mask : Tensor, shape (batch or 1, 1, tokens, tokens), bool or additive, or (batch, tokens) for padding, or None
    scaling : float
    softcap : float or None
        Bound of the logits, ``softcap * tanh(logits / softcap)``.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float
    softcap: float | None = None
