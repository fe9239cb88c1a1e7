"""Which rows of a split become samples. One pass over the rows, holding about as many as are asked for."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeAlias

from vispco.data.samples import Picture, Row
from vispco.errors import DataError

Numbered: TypeAlias = Iterable[tuple[int, Row]]
"""Rows with their numbers in the table."""

Measure: TypeAlias = Callable[[Picture], int]
"""What rows are balanced by, at least 1; ValueError if it cannot be told of a picture."""

_Entry: TypeAlias = tuple[int, int, Row]
"""Negative key and number, so that the heap's first entry is the one to give up, and the row."""


def area(picture: Picture) -> int:
    """Pixels."""
    width, height = picture.size()
    return width * height


def draw_random(rows: Numbered, count: int, seed: int) -> list[Row]:
    """``count`` rows without replacement, all equally likely, in random order; all rows if there are fewer.

    A hash of the seed and the number of a row gives it a place in a random order of all rows; the first are taken.
    """
    heap: list[_Entry] = []
    for number, row in rows:
        _keep(heap, (-_key(seed, number), -number, row), count)
    return [row for _, _, row in sorted(heap, reverse=True)]


def draw_balanced(rows: Numbered, count: int, seed: int, measure: Measure) -> list[Row]:
    """``count`` rows, equally many from each doubling of a measure, in random order.

    This is the histogram equalisation by stratified over- and under-sampling of the VisPCO paper. Bin ``b`` holds
    ``2 ** (b - 1) <= measure < 2 ** b``: bins of equal ratios, because pictures differ by factors (quantiles as bins
    would give back the distribution that the table has). Bins that hold too many rows are sampled as by
    :func:`draw_random`; where there are too few, each is taken equally often, but for a remainder. If the table has
    fewer than ``count`` rows, as many as it has are drawn. What does not divide evenly goes to the fullest bins.

    Raises
    ------
    DataError
        If the measure of a picture cannot be told.
    """
    bins: dict[int, list[_Entry]] = {}
    sizes: Counter[int] = Counter()
    for number, row in rows:
        try:
            place = measure(row.picture).bit_length()
        except ValueError as error:
            raise DataError(f"{row.place}: {error}") from None
        sizes[place] += 1
        heap = bins.setdefault(place, [])
        # More bins can only mean fewer rows from each, so that all bins together hold little more than `count`.
        most = -(-count // len(bins))
        if len(heap) == 0:
            for other in bins.values():
                while len(other) > most:
                    heapq.heappop(other)
        _keep(heap, (-_key(seed, number), -number, row), most)
    if not bins:
        return []
    each, rest = divmod(min(count, sizes.total()), len(bins))
    drawn: list[tuple[int, int, int, Row]] = []
    for rank, place in enumerate(sorted(bins, key=lambda place: (-sizes[place], place))):
        best = sorted(bins[place], reverse=True)
        for turn in range(each + (rank < rest)):
            again, which = divmod(turn, len(best))
            _, number, row = best[which]
            # Not the key that it was chosen by: in that order, bins with too many rows would come first.
            drawn.append((_key(seed, -number, 1 + again), -number, again, row))
    return [row for *_, row in sorted(drawn, key=lambda entry: entry[:3])]


def _key(seed: int, number: int, purpose: int = 0) -> int:
    """64 bits that look random."""
    text = f"{seed} {number} {purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _keep(heap: list[_Entry], entry: _Entry, most: int) -> None:
    """Add to those of the smallest keys, of which at most ``most`` are kept."""
    if len(heap) < most:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)
