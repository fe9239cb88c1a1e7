"""Where samples come from: a table of the user's, or the embedded shapes world stored as one."""

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path

from vispco.data.readers import read_tsv
from vispco.data.samples import Sample
from vispco.data.tasks import Task
from vispco.embedded import shapes
from vispco.errors import DataError


def load_samples(path: str, split: str, count: int, *, seed: int = 0, cache: Path | None = None) -> list[Sample]:
    """The first ``count`` samples of a split.

    Parameters
    ----------
    path : str
        A table for :func:`vispco.data.read_tsv`, or ``shapes`` for the embedded data set, which is generated and
        stored as such a table first.
    split : str
        Rows whose ``split`` is another one are passed over; rows without a split count for every one.
    count : int
        At least 1.
    seed : int
        Seed of generated data.
    cache : Path or None
        Folder for generated tables; ``vispco`` in the user's cache folder if None.

    Raises
    ------
    DataError
        If the split has no samples, or ``count`` is below 1.
    """
    if count < 1:
        raise DataError(f"{count} samples of split {split!r} were asked for; ask for at least 1")
    if path == "shapes" and seed < 0:
        raise DataError(f"seed {seed} of shapes world is below 0; choose one from 0 on")
    if path == "shapes" and split not in shapes.SPLITS:
        raise DataError(f"split {split!r} is unknown in shapes world; choose one of {', '.join(shapes.SPLITS)}")
    table = _stored_shapes(split, count, seed, cache or user_cache()) if path == "shapes" else Path(path)
    task = Task()
    samples = [task.sample(row) for row in islice((r for r in read_tsv(table) if r.split in ("", split)), count)]
    if not samples:
        raise DataError(f"{path}: no samples of split {split!r}; check the `split` column")
    return samples


def _stored_shapes(split: str, count: int, seed: int, cache: Path) -> Path:
    """Generate once: a table is complete when it carries its name."""
    table = cache / f"shapes-v1-{split}-{count}-seed{seed}.tsv"
    if not table.exists():
        temporary = table.with_suffix(f".{os.getpid()}.tmp")
        try:
            cache.mkdir(parents=True, exist_ok=True)
            shapes.write_tsv(temporary, split, count, seed)
            os.replace(temporary, table)
        except OSError as error:
            raise DataError(f"{cache}: cannot store generated data ({error}); set XDG_CACHE_HOME elsewhere") from None
        finally:
            with suppress(OSError):
                temporary.unlink()
    return table


def user_cache() -> Path:
    """``vispco`` in the user's cache folder, which ``XDG_CACHE_HOME`` names."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vispco"
