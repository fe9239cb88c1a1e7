"""Gathering by slot: rows, tables and masks of the tokens that are left."""

import torch
from torch import Tensor

FILLER = -1
"""Slot of a place that holds no token: shorter samples of a batch are filled on the left."""


def gather_slots(values: Tensor, slots: Tensor) -> Tensor:
    """Rows of ``values`` (batch or 1, sequence, ...) at ``slots`` (batch, kept); fillers get row 0."""
    rows = values.expand(slots.shape[0], *values.shape[1:])
    index = slots.clamp(min=0).to(values.device)
    return rows.gather(1, index.reshape(*index.shape, *[1] * (rows.dim() - 2)).expand(*index.shape, *rows.shape[2:]))


def gather_table(table: Tensor, slots: Tensor) -> Tensor:
    """Like :func:`gather_slots` for (batch or 1, sequence, width), or a stack of such tables (M-RoPE's three axes)."""
    if table.dim() == 3:
        return gather_slots(table, slots)
    return torch.stack([gather_slots(part, slots) for part in table])


def gather_padding(mask: Tensor | None, slots: Tensor, fillers: bool) -> Tensor | None:
    """The padding mask (batch, tokens) among the tokens that are left; None stays None while there are no fillers."""
    if mask is None:
        return slots != FILLER if fillers else None
    return gather_slots(mask, slots) & (slots != FILLER).to(mask.device)


def gather_mask(
    mask: Tensor | None, rows: Tensor, columns: Tensor, dtype: torch.dtype, fillers: bool, offset: int = 0
) -> Tensor | None:
    """The attention mask among the tokens that are left.

    Parameters
    ----------
    mask : Tensor of shape (batch or 1, 1, queries, keys), bool or additive, or None for plain causal
    rows, columns : Tensor, shape (batch, queries'), (batch, keys')
        Slots of queries, relative to the mask's first row, and of keys.
    dtype : torch.dtype
        Of an additive mask.
    fillers : bool
        Whether ``columns`` has fillers.
    offset : int
        Slot of the mask's first column; keys before it are out of a sliding window's sight.

    Returns
    -------
    Tensor of shape (batch, 1, queries', keys') or None
        None stays None while there are no fillers: among ordered survivors causal is causal.
    """
    if mask is None and not fillers:
        return None
    columns = columns if mask is None else columns.to(mask.device) - offset
    rows = rows.to(columns.device)
    hidden = columns < 0
    if mask is None:
        picked = columns[:, None, :] <= rows[:, :, None]
    else:
        grid = mask[:, 0].expand(rows.shape[0], *mask.shape[2:])
        picked = gather_slots(grid, rows).gather(2, columns.clamp(min=0)[:, None].expand(-1, rows.shape[1], -1))
    # A filler row sees itself: nobody reads it, but a row that sees nothing has no softmax.
    same = (rows[:, :, None] == FILLER) & (columns[:, None, :] == FILLER - offset)
    if picked.dtype == torch.bool:
        return ((picked & ~hidden[:, None, :]) | same)[:, None]
    lowest = torch.finfo(dtype).min
    return picked.masked_fill(hidden[:, None, :], lowest).masked_fill(same, 0.0)[:, None]
