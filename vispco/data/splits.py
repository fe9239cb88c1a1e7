"""Splits of a table: by its own column, or by the pictures, so that none is in two of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vispco.data.samples import Row, Sample
from vispco.errors import ConfigError, DataError


@dataclass(frozen=True)
class Splits:
    """Which split a row belongs to.

    With ``by="hash"``, and for rows that name no split, the SHA-256 of the picture's bytes decides: as a number in
    [0, 1), it falls into the stretch of one split, or of none where the fractions leave room. Rows about one picture
    stay together, and a row stays where it is whatever is added to its table.

    Parameters
    ----------
    by : {"column", "hash"}
    fractions : mapping of str to float
        Lengths of the stretches, one after the other.

    Raises
    ------
    ConfigError
        If fractions are not above 0, or more than 1 together.
    """

    by: str = "column"
    fractions: Mapping[str, float] = field(default_factory=lambda: {"validation": 0.5, "test": 0.5})

    def __post_init__(self) -> None:  # noqa: D105
        total = sum(self.fractions.values())
        if total > 1 + 1e-9 or any(share <= 0 for share in self.fractions.values()):
            raise ConfigError(
                f"data.fractions = {dict(self.fractions)} sum to {total:g}; give fractions above 0, together at most 1"
            )
        if self.by not in ("column", "hash"):
            raise ConfigError(f"data.split_by = {self.by!r} is unknown; choose column or hash")

    def check(self, split: str) -> None:
        """ConfigError if no row can ever be of ``split``."""
        if self.by == "hash" and split not in self.fractions:
            raise ConfigError(
                f"split {split!r} has no share of the table; name one of {', '.join(self.fractions)}, or set its share "
                f"with data.fractions.{split}"
            )

    def of(self, row: Row) -> str:
        """The split of a row; empty for none."""
        if self.by == "column" and row.split:
            return row.split
        place = int(row.picture.digest()[:13], 16) / 16**13  # 52 bits: exact, and below 1
        for name, share in self.fractions.items():
            if place < share:
                return name
            place -= share
        return ""


def check_apart(searching: Iterable[Sample], reporting: Iterable[Sample]) -> int:
    """The number of pictures that stand in both splits.

    Raises
    ------
    DataError
        If the same question about one of them does, too.
    """
    asked: dict[str, set[str]] = {}
    for sample in searching:
        asked.setdefault(sample.picture.digest(), set()).add(sample.question)
    shared = set()
    for sample in reporting:
        digest = sample.picture.digest()
        if sample.question in asked.get(digest, ()):
            raise DataError(
                f"sample {sample.index} of the report split is searched with, too (same picture and question); "
                "a result must be reported on other samples: data.split_by=hash keeps splits apart"
            )
        if digest in asked:
            shared.add(digest)
    return len(shared)
