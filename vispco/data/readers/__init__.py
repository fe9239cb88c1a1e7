"""Readers of tables by name: one file each."""

from pathlib import Path

from vispco.data.readers.base import Broken, Found, Pictureless, Reader
from vispco.data.readers.datasets import read_datasets
from vispco.data.readers.jsonl import read_jsonl
from vispco.data.readers.llava import read_llava
from vispco.data.readers.tsv import read_tsv
from vispco.errors import ConfigError, DataError

REGISTRY: dict[str, Reader] = {
    "tsv": read_tsv,
    "llava": read_llava,
    "jsonl": read_jsonl,
    "datasets": read_datasets,
}

ENDINGS = {".tsv": "tsv", ".json": "llava", ".jsonl": "jsonl", ".parquet": "datasets", ".arrow": "datasets"}
"""Readers by how the name of a file ends; a folder is for ``datasets``."""


def find_reader(path: Path, name: str | None = None) -> Reader:
    """The reader called ``name``, or the one that fits to the path if None.

    Raises
    ------
    ConfigError
        If there is none of that name.
    DataError
        If none fits.
    """
    if name is not None:
        if name not in REGISTRY:
            raise ConfigError(f"data.reader = {name!r} is unknown; choose one of {', '.join(REGISTRY)}")
        return REGISTRY[name]
    if path.is_dir():
        return read_datasets
    if path.suffix not in ENDINGS:
        raise DataError(
            f"{path}: no reader is known for files that end in {path.suffix!r}; those of {', '.join(ENDINGS)} are, "
            f"otherwise give data.reader={'|'.join(REGISTRY)}"
        )
    return REGISTRY[ENDINGS[path.suffix]]


__all__ = [
    "ENDINGS",
    "REGISTRY",
    "Broken",
    "Found",
    "Pictureless",
    "Reader",
    "find_reader",
    "read_datasets",
    "read_tsv",
]
