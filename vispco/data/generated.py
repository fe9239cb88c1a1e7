"""Shapes world, stored as a table like a user's, with its digest beside it: what is damaged is made again."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from vispco.disk import replace_file
from vispco.embedded import shapes
from vispco.errors import DataError


def stored_shapes(split: str, count: int, seed: int, cache: Path) -> Path:
    """The table of ``count`` generated samples in the folder ``cache``.

    Raises
    ------
    DataError
        If there is no such split or seed, or the table cannot be stored.
    """
    if seed < 0:
        raise DataError(f"seed {seed} of shapes world is below 0; choose one from 0 on")
    if split not in shapes.SPLITS:
        raise DataError(f"split {split!r} is unknown in shapes world; choose one of {', '.join(shapes.SPLITS)}")
    table = cache / f"shapes-v1-{split}-{count}-seed{seed}.tsv"
    digest = table.with_suffix(".sha256")
    if not _is_sound(table, digest):
        temporary = table.with_suffix(f".{os.getpid()}.tmp")
        try:
            cache.mkdir(parents=True, exist_ok=True)
            shapes.write_tsv(temporary, split, count, seed)
            replace_file(digest, _digest(temporary))
            os.replace(temporary, table)
        except OSError as error:
            raise DataError(
                f"{cache}: cannot store generated data ({error.strerror}); set XDG_CACHE_HOME elsewhere"
            ) from None
        finally:
            with suppress(OSError):
                temporary.unlink()
    return table


def _is_sound(table: Path, digest: Path) -> bool:
    """Whether a table is as it was written."""
    try:
        return digest.read_bytes() == _digest(table)
    except OSError:
        return False


def _digest(table: Path) -> bytes:
    return hashlib.sha256(table.read_bytes()).hexdigest().encode()


def user_cache() -> Path:
    """``vispco`` in the user's cache folder, which ``XDG_CACHE_HOME`` names."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vispco"
