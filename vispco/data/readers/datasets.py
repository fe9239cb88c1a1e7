"""Data sets of the Hugging Face library ``datasets``: saved folders, Parquet and Arrow files, or a name on the hub."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vispco.data.readers.base import Broken, Found, Unusable
from vispco.data.readers.fields import FIELDS, make_row
from vispco.data.readers.pictures import Folder, picture_of
from vispco.errors import DataError

Result = TypeVar("Result")

USED = FIELDS | {"image", "image_path"}
"""Columns that are looked at."""


def read_datasets(path: Path, images: Path | None = None) -> Iterator[Found]:
    """Rows with the columns of :func:`~vispco.data.readers.fields.make_row`.

    The picture is that of :func:`~vispco.data.readers.pictures.picture_of`; it is not decoded. Class labels become
    their names. The parts of a data set that has several are the splits of rows that name none.

    Parameters
    ----------
    path : Path
        A folder of ``save_to_disk`` or of Parquet files, a Parquet or an Arrow file, or, where there is no such path,
        the name of a data set on the hub, which is streamed.
    images : Path or None
        Folder of pictures that are stored by name.

    Raises
    ------
    DataError
        If the library is missing, or the data set cannot be read.
    """
    try:
        import datasets
        from datasets.features.features import require_decoding
    except ImportError:
        raise DataError(f"{path}: needs Hugging Face datasets; pip install 'vispco[datasets]'") from None
    folder = Folder(path, images)
    opened = _told(path, lambda: _open(datasets, path))
    for part, table in opened.items() if isinstance(opened, Mapping) else [("", opened)]:
        features = {name: kind for name, kind in (table.features or {}).items() if name in USED}
        if features:
            table = table.select_columns(list(features))  # the library would decode the others, from wherever they are
        for name, kind in features.items():
            if isinstance(kind, datasets.Image):
                table = table.cast_column(name, datasets.Image(decode=False))
            elif require_decoding(kind):
                raise DataError(
                    f"{path}: column {name!r} holds several pictures per row, or other media; one picture per question "
                    "is supported, as an Image, bytes or text"
                )
        names = {name: kind.int2str for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        for number, fields in enumerate(_rows(path, table.with_format(None)), start=1):
            place = f"{path}, row {number}" + (f" of {part}" if part else "")
            try:
                named = {name: value for name, value in fields.items() if value is not None}
                for name in names.keys() & named.keys():
                    named[name] = names[name](named[name])
                named["split"] = named.get("split") or part
                yield make_row(named, place, number, picture_of(named, folder))
            except Unusable as error:
                yield Broken(place, str(error))


def _open(datasets: Any, path: Path) -> Any:
    """One table, or several by name."""
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            _check_inside(path)
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path), streaming=True)
    if path.suffix == ".arrow":
        return datasets.Dataset.from_file(str(path))
    if path.suffix == ".parquet":
        return datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    return datasets.load_dataset(str(path), streaming=True)


def _check_inside(path: Path) -> None:
    """Refuse a saved data set that names files outside of its folder; ValueError, or whatever a damaged one causes."""

    def check(places: list[Path]) -> None:
        for place in places:
            if not place.resolve().is_relative_to(path.resolve()):
                raise ValueError(f"it names {place}, which is outside of the folder")

    parts = [path, *(path / name for name in _stated(path / "dataset_dict.json", "splits"))]
    check(parts)
    check([part / each["filename"] for part in parts for each in _stated(part / "state.json", "_data_files")])


def _stated(file: Path, key: str) -> list[Any]:
    """A list in a JSON file; empty without the file."""
    stated: list[Any] = json.loads(file.read_bytes())[key] if file.is_file() else []
    return stated


def _rows(path: Path, table: Any) -> Iterator[dict[str, Any]]:
    rows = iter(table)
    while (fields := _told(path, lambda: next(rows, None))) is not None:
        yield fields


def _told(path: Path, call: Callable[[], Result]) -> Result:
    """What the library gives; DataError in its own first line otherwise."""
    try:
        return call()
    except Exception as error:  # its own, and those of Arrow and of the network, are too many to list
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: cannot be read by datasets ({reason}); give a folder of save_to_disk, a Parquet or Arrow file, "
            "or a name on the hub"
        ) from None
