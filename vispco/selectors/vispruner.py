"""VisPruner: important tokens, and the others without duplicates (Zhang et al., ICCV 2025, arXiv 2412.01818)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vispco.cost import Cut
from vispco.errors import ConfigError
from vispco.selectors.base import Knob, Need, SelectorInputs, Setter
from vispco.selectors.covering import CHUNK, unit_rows
from vispco.selectors.quotas import fraction
from vispco.selectors.ranking import places_of, rank_tokens

AT_ONCE = 8
"""Most tokens that a round drops, as published."""

GRID = 2**24
"""Cosines are whole numbers of 1/GRID, which float32 holds exactly."""

ORDERS = ("attention", "authors")


class VisPruner(Setter):
    """Of K tokens, ``K_imp = floor(important K)`` by the tower's attention, and the most distinct of the others.

    With s FasterVLM's score and x what the vision tower's projected layer puts out::

        important  the K_imp tokens of the largest s
        pool       the others, by falling s;  until K - K_imp are left, round by round:
                     E, O = the pool's places 0, 2, 4, .. and 1, 3, 5, ..
                     m_i  = max over o in O of cos(x_i, x_o),  for i in E
                     drop the r tokens of E with the largest m_i,   r = min(8, |pool| - (K - K_imp), |E|)

    Ties go to the earlier place in the pool. Published settings: before the first layer, 128 of 576 tokens with
    ``important`` 0.5, which the authors tune by task (64 with 0.75 for MME).

    Differences. The authors' code fails if the pool's size is odd or r is more than half of it: here E has one token
    more than O in an odd pool, r is at most ``|E|``, and a pool of one, which has nobody to be compared with, is
    dropped if none may be left. From the second round on, their pool is out of order: E's survivors by falling m, then
    O. ``order="authors"`` does the same. In their code every tile of LLaVA-NeXT keeps K of its own tokens; here a
    sample's tokens are all in one pool. Positions are the original ones here and counted anew there.

    All cosines are computed once, 4 M^2 bytes per sample for a pool of M, and each round looks up a quarter of those
    that are left: (N - K) / 8 rounds, of which 320 for N = 2880 read 2 x 10^8 numbers. The products are in float64,
    which costs the same on a CPU: rounded to 2^-24 after that, they do not depend on the batch's shape, and equal
    cosines tie.

    Parameters
    ----------
    important : float
        Share of K that goes by attention alone.
    order : {"attention", "authors"}
        Order of the pool after the first round.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"tower_row", "tower_hidden"})
    knobs: ClassVar[Mapping[str, Knob]] = {"important": Knob(0, 1)}
    paper: ClassVar[str] = "arXiv 2412.01818, ICCV 2025"
    complexity: ClassVar[str] = "O(N^2 d + (N - K) N^2), the second part look-ups in (N - K) / 8 rounds"

    def __init__(self, important: float = 0.5, order: str = "attention"):
        if order not in ORDERS:
            raise ConfigError(f"selector parameter order = {order!r} is unknown; choose one of {', '.join(ORDERS)}")
        self.important: float = self.knobs["important"].check("important", important)
        self.order = order

    def own_flops(self, cut: Cut) -> float:
        """Cosines of all pairs of the pool, at the decoder's width, as a cut does not know the tower's."""
        return 2.0 * (cut.visual - self.important * cut.kept) ** 2 * cut.shape.hidden

    def choose(self, inputs: SelectorInputs, counts: Tensor) -> Tensor:
        """Important tokens and what is left of the pool."""
        valid, row, hidden = inputs.valid, inputs.tower_row, inputs.tower_hidden
        assert row is not None
        assert hidden is not None
        counts = counts.to(valid.device)
        ranks, unit = rank_tokens(row, valid), unit_rows(hidden.double(), valid)
        number = fraction(counts, self.important)
        sizes = (valid.sum(dim=1) - number).cpu()  # the one wait for the device; no round needs another
        drops, widths = rounds(sizes, (counts - number).cpu())

        # Places in the order of s that are in the pool; samples with smaller pools have empty ones at the end.
        slots = number[:, None] + torch.arange(widths[0], device=valid.device)
        there = slots < valid.sum(dim=1, keepdim=True)
        tokens = ranks.argsort(dim=1).gather(1, slots.clamp(max=max(valid.shape[1] - 1, 0)))
        left = there
        if len(drops):
            pool = unit.gather(1, tokens[..., None].expand(-1, -1, unit.shape[-1]))
            left = deduplicate(cosines(pool), there, drops.to(valid.device), widths, self.order == "attention")
        kept = (valid & (ranks < number[:, None])).long()
        return kept.scatter_add(1, tokens, (left & there).long()) > 0


def rounds(sizes: Tensor, goals: Tensor) -> tuple[Tensor, list[int]]:
    """How many tokens every round drops, and the largest pool before each, on the CPU.

    Parameters
    ----------
    sizes, goals : Tensor, shape (batch,), int64
        Tokens in each sample's pool, and how many are to be left.

    Returns
    -------
    tuple of Tensor, shape (rounds, batch), int64, and list of int
        The list has one number more, that after the last round.
    """
    drops, widths = [], [max([0, *sizes.tolist()])]
    while bool((sizes > goals).any()):
        drops.append(torch.minimum((sizes - goals).clamp(max=AT_ONCE), (sizes + 1) // 2))
        sizes = sizes - drops[-1]
        widths.append(int(sizes.max()))
    return torch.stack(drops) if drops else sizes.new_empty(0, len(sizes)), widths


def cosines(unit: Tensor) -> Tensor:
    """Rounded cosines of all pairs, shape (batch, rows + 1, rows + 1), float32; the last row and column are -inf.

    Parameters
    ----------
    unit : Tensor, shape (batch, rows, width), float64
    """
    result = unit.new_full((len(unit), unit.shape[1] + 1, unit.shape[1] + 1), -torch.inf, dtype=torch.float32)
    for start in range(0, unit.shape[1], CHUNK):  # so that there is never a square matrix in float64
        rows = unit[:, start : start + CHUNK]
        result[:, start : start + rows.shape[1], :-1] = ((rows @ unit.mT) * GRID).round() / GRID
    return result


def deduplicate(similar: Tensor, there: Tensor, drops: Tensor, widths: list[int], sort: bool) -> Tensor:
    """Tokens that are left of a pool after all rounds, without waiting for the device in any.

    Parameters
    ----------
    similar : Tensor, shape (batch, pool + 1, pool + 1), float32
        Of :func:`cosines`. Its last index stands for places that are empty.
    there : Tensor, shape (batch, pool), bool
        Samples with smaller pools have empty places at the end.
    drops, widths
        Of :func:`rounds`.
    sort : bool
        Bring the pool back into its first order after every round.

    Returns
    -------
    Tensor, shape (batch, pool), bool
    """
    batch, empty = len(similar), there.shape[1]
    start = (torch.arange(batch, device=there.device) * (empty + 1))[:, None]
    table = similar.flatten(0, 1)
    pool = torch.where(there, torch.arange(empty, device=there.device), empty)
    pool = torch.nn.functional.pad(pool, (0, 2), value=empty)
    for drop, width in zip(drops, widths, strict=False):
        pool = pool[:, : max(width + width % 2, 2)]  # an even number of places, so that there is an odd one
        even, odd = pool[:, ::2], pool[:, 1::2]
        rows = table.index_select(0, (start + even).flatten()).unflatten(0, even.shape)
        nearest = rows.gather(2, odd[:, None].expand(-1, even.shape[1], -1)).amax(dim=2)
        order = nearest.argsort(dim=1, descending=True, stable=True)
        if sort:
            even = even.masked_fill(places_of(order) < drop[:, None], empty)
            pool = torch.cat([even, odd], dim=1).sort(dim=1).values
        else:
            gone = torch.arange(even.shape[1], device=order.device) < drop[:, None]
            pool = torch.cat([even.gather(1, order).masked_fill(gone, empty), odd], dim=1)
            pool = pool.gather(1, (pool == empty).to(torch.int8).argsort(dim=1, stable=True))
    return torch.zeros_like(similar[:, 0], dtype=torch.bool).scatter(1, pool, True)[:, :-1]
