"""Pooling: a control that averages neighbours on the grid (arXiv 2502.11501, Findings of ACL 2025)."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from vispco.selectors.base import Choice, Merger, Need, SelectorInputs
from vispco.selectors.merging import merge_groups, share_out
from vispco.selectors.ranking import places_of

SHIFT = 20
"""Bits of a row, column or image in a sort key."""

END = torch.iinfo(torch.int64).max
"""Behind every sort key and every distance."""


class Pooling(Merger):
    """Every image is cut into as many cells as it may keep tokens; a cell becomes the mean of its tokens.

    Images share K in proportion to their tokens, each with one token while K suffices. An image with tokens in h rows
    and w columns that keeps k of them is cut into strips of rows, and strips into cells::

        R   = round(sqrt(k h / w)), at least ceil(k / w) and at most min(h, k)     strips
        k_i = floor((i + 1) k / R) - floor(i k / R)                                cells of strip i
        x   = (sum_j n_j x_j) / (sum_j n_j)                                        what stays of a cell

    with x_j its tokens and n_j the original tokens that each stands for. Strip i starts at row floor(i h / R), and its
    cell j at column floor(j w_i / k_i), counted among the h rows of the image and the w_i columns of the strip that
    hold tokens. So strips and cells are whole rows and columns, as equal as integers allow: of 24 x 24 tokens, 144 are
    2 x 2 pooling with stride 2, and 64 are 3 x 3 with stride 3.

    Where tokens were dropped before, a strip may hold fewer tokens than it is to have cells. Then borders of strips
    move, token by token in reading order, as far as needed. In a strip with fewer columns than cells, cells are runs of
    equal length, by column and then row. No cell is ever empty.

    The token that stays is the one nearest to the mean place of its cell; ties go to the upper, then the left one. A
    later cut starts from the tokens that stayed, so that means stay means of original tokens.

    Published settings: before the first layer, 144 or 64 of 576 tokens; the windows are inferred from these numbers, as
    the paper does not state them and has no public code. Other counts, and several images, are ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"grid"})
    paper: ClassVar[str] = "arXiv 2502.11501, Findings of ACL 2025"
    complexity: ClassVar[str] = "O(N log N + N K d)"

    def merge(self, inputs: SelectorInputs, counts: Tensor) -> Choice:
        """Cells, their middles and their means."""
        assert inputs.grid is not None
        assert inputs.images is not None
        assert inputs.sizes is not None
        quota = share_out(counts, inputs.images, inputs.valid)
        taking = inputs.valid & (quota.gather(1, inputs.images) > 0)
        cell = cut_cells(inputs.grid, inputs.images, taking, quota)
        kept = middles(inputs.grid, cell, taking)
        index = torch.arange(cell.shape[1], device=cell.device).expand_as(cell)
        target = torch.zeros_like(pad(cell, (0, 1))).scatter_add(1, cell, torch.where(kept, index, 0)).gather(1, cell)
        parts = torch.where(taking, inputs.sizes, 0.0)
        whole = torch.zeros_like(pad(parts, (0, 1))).scatter_add(1, cell, parts).gather(1, cell)
        return merge_groups(kept, target, torch.where(taking, parts / whole, 0.0))


def cut_cells(grid: Tensor, images: Tensor, taking: Tensor, quota: Tensor) -> Tensor:
    """Cell of every token, counted through all images of a sample.

    Parameters
    ----------
    grid : Tensor, shape (batch, visual, 2), int64
    images : Tensor, shape (batch, visual), int64
    taking : Tensor, shape (batch, visual), bool
        Tokens that go into a cell.
    quota : Tensor, shape (batch, images), int64
        Cells of every image, at most its tokens.

    Returns
    -------
    Tensor, shape (batch, visual), int64
        Below the number of cells; ``visual`` for tokens that go into none.
    """
    row, column = grid.unbind(dim=-1)
    height, width = (_lines(images, side, taking, quota.shape[1]) for side in (row, column))
    width = width.clamp(min=1)
    strips = (quota.double() * height / width).sqrt().add(0.5).long()
    strips = strips.maximum((quota + width - 1) // width).minimum(height).minimum(quota)
    strip, cells = split(images, row, column, taking, strips, quota)
    cell, _ = split(strip, column, row, taking, cells, cells)
    return cell.masked_fill(~taking, cell.shape[1])


def split(
    groups: Tensor, lines: Tensor, across: Tensor, taking: Tensor, parts: Tensor, room: Tensor
) -> tuple[Tensor, Tensor]:
    """Cut every group of tokens, in the order of lines and of places across, into parts of whole lines.

    Parts take equal numbers of lines as far as integers allow. With fewer lines than parts they take equal numbers of
    tokens. Borders move where a part would be too small for its room.

    Parameters
    ----------
    groups, lines, across : Tensor, shape (batch, visual), int64
    taking : Tensor, shape (batch, visual), bool
        Tokens that count.
    parts : Tensor, shape (batch, groups), int64
    room : Tensor, shape (batch, groups), int64
        Tokens that the parts of a group hold at least, shared out evenly; from its parts to its tokens.

    Returns
    -------
    tuple of two Tensor, shape (batch, visual), int64
        Part of every token, counted through all groups, and the room of every part, 0 where there is none.
    """
    batch, visual = groups.shape
    place = torch.arange(visual, device=groups.device).expand(batch, -1).contiguous()
    key = ((groups << 2 * SHIFT) + (lines << SHIFT) + across).masked_fill(~taking, END)
    key, order = key.sort(dim=1, stable=True)
    line = _is_new(key >> SHIFT).cumsum(dim=1) - 1
    tokens = torch.zeros_like(parts).scatter_add(1, groups, taking.long())
    number = _lines(groups, lines, taking, parts.shape[1])

    ends = parts.cumsum(dim=1)
    real = place < ends[:, -1:]
    group = torch.searchsorted(ends, place, right=True).clamp(max=parts.shape[1] - 1)
    size, line_count, part_count, holds = (of.gather(1, group) for of in (tokens, number, parts.clamp(min=1), room))
    first, first_line, first_part, held = (_before(of).gather(1, group) for of in (tokens, number, parts, room))
    part = place - first_part

    at_line = torch.searchsorted(line, first_line + part * line_count // part_count) - first
    wanted = torch.where(line_count >= part_count, at_line, part * size // part_count)
    # Tokens in front of a part beyond those that the parts before it must hold: if they never fall from part to part,
    # every part has its room, and if they end with those that the group has to spare, so has the last one.
    least = part * holds // part_count
    spare = (wanted - least).clamp(min=0).minimum(size - holds)
    begin = (first - held + spare).cummax(dim=1).values + held + least
    found = torch.searchsorted(begin.masked_fill(~real, visual), place, right=True) - 1
    rooms = ((part + 1) * holds // part_count - least).masked_fill(~real, 0)
    return found.clamp(min=0).gather(1, places_of(order)), rooms


def middles(grid: Tensor, cell: Tensor, taking: Tensor) -> Tensor:
    """The token of every cell that is nearest to the mean place of its tokens, shape (batch, visual), bool."""
    none = pad(torch.zeros_like(cell), (0, 1))
    tokens = none.scatter_add(1, cell, taking.long()).gather(1, cell)
    distance = torch.zeros_like(cell)
    for side in grid.unbind(dim=-1):
        # In whole numbers, times the number of tokens, so that ties are ties.
        distance += (tokens * side - none.scatter_add(1, cell, side).gather(1, cell)).square()
    nearest = distance == (none + END).scatter_reduce(1, cell, distance, "amin").gather(1, cell)
    reading = places_of(((grid[..., 0] << SHIFT) + grid[..., 1]).argsort(dim=1, stable=True))
    best = (none + END).scatter_reduce(1, cell, torch.where(nearest, reading, END), "amin").gather(1, cell)
    return taking & (reading == best)


def _lines(groups: Tensor, lines: Tensor, taking: Tensor, number: int) -> Tensor:
    """How many different lines the tokens of each of ``number`` groups are in, shape (batch, groups)."""
    key = ((groups << SHIFT) + lines).masked_fill(~taking, END).sort(dim=1).values
    found = (_is_new(key) & (key < END)).long()
    return found.new_zeros(len(key), number).scatter_add(1, (key >> SHIFT).clamp(max=max(number - 1, 0)), found)


def _is_new(key: Tensor) -> Tensor:
    """Where sorted keys differ from the one before."""
    return key.diff(dim=1, prepend=torch.full_like(key[:, :1], -1)) != 0


def _before(counts: Tensor) -> Tensor:
    """Sum of the counts in front of each."""
    return counts.cumsum(dim=1) - counts
