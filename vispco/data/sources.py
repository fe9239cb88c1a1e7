"""From a table to the samples of a split: read, told apart, drawn, and all that was left out counted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vispco.data.generated import stored_shapes, user_cache
from vispco.data.readers import Broken, Pictureless, Reader, find_reader, read_datasets
from vispco.data.samples import Row, Sample
from vispco.data.sampling import Measure, area, draw_balanced, draw_random
from vispco.data.splits import Splits
from vispco.data.tasks import Task
from vispco.errors import ConfigError, DataError

SAMPLINGS = ("first", "random", "area", "tokens")
SHOWN = 10
"""Broken rows that are kept to be named; the others are counted."""


@dataclass
class Tally:
    """What a table had, as far as it was read.

    Attributes
    ----------
    broken, pictureless : int
        Rows that cannot be used, and rows of a format with and without pictures that have none.
    named : list of Broken
        The first broken rows.
    splits : Counter of str
        Rows by split; empty for those of none.
    """

    broken: int = 0
    pictureless: int = 0
    named: list[Broken] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Drawn:
    """Samples of a split, and what was left out.

    Attributes
    ----------
    samples : list of Sample
        Indexes are unique: a row's second sample, and the second row of an index, end in ``#2``.
    distinct : int
        Rows behind them.
    tally : Tally
    """

    samples: list[Sample] = field(repr=False)
    distinct: int
    tally: Tally

    def record(self) -> dict[str, int]:
        """Counts, for the record of a run."""
        return {
            "samples": len(self.samples),
            "distinct": self.distinct,
            "broken": self.tally.broken,
            "pictureless": self.tally.pictureless,
        }


@dataclass(frozen=True)
class Source:
    """A table of the user's, or the embedded shapes world, which is generated and stored as one.

    Parameters
    ----------
    path : str
        ``shapes`` for shapes world, unless a reader is named.
    reader : str or None
        Of :data:`vispco.data.readers.REGISTRY`; by the path if None.
    images : str or None
        Folder of image files; that of the table if None.
    task : Task
        Makes samples of rows.
    splits : Splits
    seed : int
        Of what is drawn, and of shapes world.
    max_broken : int
        Broken rows that may be left out.
    cache : Path or None
        Folder for generated tables; ``vispco`` in the user's cache folder if None.
    """

    path: str
    reader: str | None = None
    images: str | None = None
    task: Task = field(default_factory=Task)
    splits: Splits = field(default_factory=Splits)
    seed: int = 0
    max_broken: int = 0
    cache: Path | None = None

    @property
    def generated(self) -> bool:
        """Whether it is shapes world."""
        return self.path == "shapes" and self.reader is None

    def check(self, *splits: str) -> None:
        """What can be refused without reading.

        Raises
        ------
        DataError, ConfigError
            If there is no reader for it, or a split can have no rows.
        """
        if self.generated:
            if self.splits.by == "hash":
                raise ConfigError("data.split_by = 'hash' is for tables; shapes world has splits of its own: column")
            return
        if find_reader(Path(self.path), self.reader) is not read_datasets:  # which may be a name on the hub
            try:
                Path(self.path).stat()
            except (OSError, ValueError) as error:
                raise DataError(f"{self.path}: cannot be read ({error}); give another data.path") from None
        for split in splits:
            self.splits.check(split)

    def draw(self, split: str, count: int, sampling: str = "first", tokens: Measure | None = None) -> Drawn:
        """Samples of a split: up to ``count`` of them.

        Parameters
        ----------
        split : str
        count : int
            At least 1.
        sampling : {"first", "random", "area", "tokens"}
            ``first`` reads no further than it has to, and keeps the table's order; the others read the table once, and
            their order is random; see :mod:`vispco.data.sampling`. Generated samples are independent already, so that
            ``random`` leaves them as they are.
        tokens : callable
            Visual tokens of a picture, for ``tokens``.

        Raises
        ------
        DataError
            If the table cannot be read, has more broken rows than may be, or no sample of the split.
        ConfigError
            If a setting does not fit.
        """
        if count < 1:
            raise DataError(f"{count} samples of split {split!r} were asked for; ask for at least 1")
        if sampling not in SAMPLINGS:
            raise ConfigError(f"data.sampling = {sampling!r} is unknown; choose one of {', '.join(SAMPLINGS)}")
        if sampling == "tokens" and tokens is None:
            raise ConfigError("data.sampling = 'tokens' needs a model's processor, which counts them; choose area")
        self.check(split)
        path, images = Path(self.path), Path(self.images) if self.images is not None else None
        if self.generated:
            path = stored_shapes(split, count, self.seed, self.cache or user_cache())
            sampling = "first" if sampling == "random" else sampling
            images = None
        tally = Tally()
        reader = find_reader(path, self.reader)
        rows = ((n, row) for n, row in self._rows(reader, path, images, tally) if self._count(row, tally) == split)
        if sampling == "first":
            chosen = [row for _, row in islice(rows, count)]
        elif sampling == "random":
            chosen = draw_random(rows, count, self.seed)
        else:
            chosen = draw_balanced(rows, count, self.seed, area if tokens is None or sampling == "area" else tokens)
        if tally.broken > self.max_broken:
            raise DataError(
                f"{tally.named[0]}{f' ({tally.broken} rows are broken)' if tally.broken > 1 else ''}; "
                f"or leave them out with data.max_broken={tally.broken}"
            )
        if not chosen:
            raise DataError(f"{self.path}: no samples of split {split!r}; {self._others(tally)}")
        return Drawn(self._samples(chosen), len({id(row) for row in chosen}), tally)

    def _rows(self, reader: Reader, path: Path, images: Path | None, tally: Tally) -> Iterator[tuple[int, Row]]:
        for number, found in enumerate(reader(path, images)):
            if isinstance(found, Row):
                yield number, found
            elif isinstance(found, Pictureless):
                tally.pictureless += 1
            else:
                tally.broken += 1
                if len(tally.named) < SHOWN:
                    tally.named.append(found)

    def _count(self, row: Row, tally: Tally) -> str:
        split = self.splits.of(row)
        tally.splits[split] += 1
        return split

    def _others(self, tally: Tally) -> str:
        """What there is in place of a split, and the next step."""
        if not tally.splits:
            return f"it has no rows with a picture ({tally.pictureless} without, {tally.broken} broken)"
        have = ", ".join(f"{name or 'none'} ({rows} rows)" for name, rows in tally.splits.most_common(5))
        if self.splits.by == "hash":
            return f"the splits of its rows are {have}; change data.fractions, or give a longer table"
        made = ", ".join(self.splits.fractions)
        return f"the splits of its rows are {have}; name one of them, or make {made} with data.split_by=hash"

    def _samples(self, chosen: list[Row]) -> list[Sample]:
        samples, seen = [], Counter[str]()
        for row in chosen:
            seen[row.index] += 1
            copy = f"{row.index}#{seen[row.index]}" if seen[row.index] > 1 else None
            samples.append(self.task.sample(row, copy))
        return samples


def load_samples(path: str, split: str, count: int, *, seed: int = 0, cache: Path | None = None) -> list[Sample]:
    """The first ``count`` samples of a split, under the defaults of :class:`Source`.

    Raises
    ------
    DataError
        If the table cannot be used, the split has no samples, or ``count`` is below 1.
    """
    return Source(path, seed=seed, cache=cache).draw(split, count).samples
