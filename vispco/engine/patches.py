"""Attention in a layer of a vision tower.

It is computed again from the input of the few layers that a selector asks about, for the rows that it needs: the class
token's, or, where there is none, all of them, a few at a time.
"""

from typing import Any

import torch
from torch import Tensor

from vispco.engine.signals import CHUNK


def project(module: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of an attention module for its input; shape (pictures, heads, patches, head_dim)."""
    query, key = module.q_proj(hidden), module.k_proj(hidden)
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    shape = (*hidden.shape[:2], module.num_heads, -1)
    return query.reshape(shape).transpose(1, 2), key.reshape(shape).transpose(1, 2)


def there(mask: Tensor | None, key: Tensor) -> Tensor:
    """Patches that are no padding of their picture, which Idefics3 has; bool, shape (pictures, patches).

    Parameters
    ----------
    mask : Tensor, shape (pictures, 1, patches, patches) or (pictures, patches), or None
        As backends of attention take it: what may be seen is True, or 0 in a mask that is added, or 1 for flash.
    key : Tensor, shape (pictures, heads, patches, head_dim)
    """
    if mask is None:
        return torch.ones(key.shape[0], key.shape[2], dtype=torch.bool, device=key.device)
    row = mask[:, 0, 0] if mask.dim() == 4 else mask
    return row == 0 if row.is_floating_point() else row.bool()


def rows_of(query: Tensor, key: Tensor, module: Any, seen: Tensor) -> Tensor:
    """Attention of some patches, mean over heads; shape (pictures, queries, patches), float32."""
    products = (query @ key.transpose(2, 3) * module.scale).float()
    rows: Tensor = products.masked_fill(~seen[:, None, None], -torch.inf).softmax(dim=-1).mean(dim=1)
    return rows


def class_row(query: Tensor, key: Tensor, module: Any, seen: Tensor) -> Tensor:
    """Attention of the class token on all patches; shape (pictures, patches)."""
    return rows_of(query[:, :, :1], key, module, seen)[:, 0]


def received_row(query: Tensor, key: Tensor, module: Any, seen: Tensor) -> Tensor:
    """Attention that every patch receives, mean over the patches that are no padding; shape (pictures, patches)."""
    total = torch.zeros(seen.shape, dtype=torch.float32, device=key.device)
    for start in range(0, query.shape[2], CHUNK):
        part = slice(start, start + CHUNK)
        total += (rows_of(query[:, :, part], key, module, seen) * seen[:, part, None]).sum(dim=1)
    return total / seen.sum(dim=1, keepdim=True)
