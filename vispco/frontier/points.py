"""Points: evaluated configurations, one JSON object per line in a file that only grows.

A killed process can tear the last line of such a file and no other, so a tail that is not whole is left out on reading
and cut off before the next append; damage anywhere else is reported, never repaired.
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator
from pydantic_core import from_json

from vispco.disk import append_file
from vispco.errors import ConfigError, DataError, RunError
from vispco.schedule import check_keep

POINTS_FILE = "points.jsonl"
"""Name of the points file inside a run folder."""

MERGE_KEYS = ("backend", "dtype", "model", "prompt", "data", "split")
"""Fields in which points must agree before their numbers may be compared."""


class Point(BaseModel):
    """One evaluated configuration; immutable, and NaN or infinity is refused in every number.

    Attributes
    ----------
    name : str
        Unique label for people, e.g. ``"learned b=0.50"``.
    method, selector : str
        What chose the schedule (learned, grid, step, control...) and what chose the tokens.
    selector_params : dict
        The selector's own settings.
    keep : tuple of float, length layers
        Fraction of the sample's original visual tokens that enter each decoder layer, non-increasing.
    split, seed
        Data split it was evaluated on, and the random seed of the run.
    costs : dict of str to float
        Fractions of the unpruned model's, e.g. ``{"flops": 0.43, "kv": 0.41}``; less is better.
    basis : dict of str to str
        What a cost depends on besides the schedule, e.g. the table of measured times; costs of different basis do not
        compare.
    quality : dict of str to float
        Mean over the samples, e.g. ``{"score": 0.91, "kl": 0.02}``.
    slices : dict of str to float
        Score of every task slice.
    samples : int
        Number of samples behind the numbers.
    backend, dtype : str
        Attention backend and number format of the evaluation.
    model, prompt, data : str
        Fingerprints of the model, of how samples become prompts, and of the samples with their scorer and its limit
        on the length of answers.
    budget : float or None
        Allowed cost it was searched for, if any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    method: str
    selector: str
    keep: tuple[float, ...]
    split: str
    seed: int
    costs: dict[str, float]
    quality: dict[str, float]
    slices: dict[str, float]
    samples: Annotated[int, Field(ge=1)]
    backend: str
    dtype: str
    model: str
    prompt: str
    budget: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    selector_params: dict[str, JsonValue] = {}
    basis: dict[str, str] = {}
    data: str = ""

    @field_validator("keep")
    @classmethod
    def _is_schedule(cls, keep: tuple[float, ...]) -> tuple[float, ...]:
        try:
            return check_keep(keep)
        except ConfigError as error:
            raise ValueError(str(error)) from None


def append_points(path: str | os.PathLike[str], points: Iterable[Point]) -> None:
    """Add points to a run folder or points file; they are on disk when this returns.

    All lines go out in one write, so a kill leaves whole lines and at most one torn tail; of a write that fails, as on
    a full disk, nothing stays. One process may write at a time: another one's unfinished line would be taken for a torn
    tail.

    Parameters
    ----------
    path : path
        An existing run folder, or a file, which is made if there is none.
    points : iterable of Point

    Raises
    ------
    RunError
        If the file cannot be written.
    DataError
        If a point is none that could be read again: a changed copy of one may hold NaN or infinity.
    """
    file = _points_file(path)
    payload = "".join(_line(point) for point in points).encode()
    try:
        _end_with_newline(file)
        append_file(file, payload)
    except OSError as error:
        raise RunError(
            f"{file}: cannot be written ({error.strerror}); give an existing, writable run folder on a disk with room"
        ) from None


def read_points(path: str | os.PathLike[str]) -> list[Point]:
    """Points of a run folder or points file, in the order they were appended.

    A torn last line (no newline, not valid JSON) is left out with a warning.

    Parameters
    ----------
    path : path
        An existing run folder or a points file.

    Raises
    ------
    RunError
        If there is no such file or it cannot be read.
    DataError
        If a line is not a point; names the file, the line number (from 1) and the field.
    """
    file = _points_file(path)
    try:
        lines = file.read_bytes().split(b"\n")  # not splitlines(): names may hold other line separators
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error}); give a run folder or its {POINTS_FILE}") from None
    tail = lines.pop()
    if _is_torn(tail):
        warnings.warn(f"{file}: line {len(lines) + 1} was torn by a crash and is left out", stacklevel=2)
    elif tail:
        lines.append(tail)
    return [_parse(line, f"{file}: line {number}") for number, line in enumerate(lines, start=1)]


def comparable(points: Sequence[Point]) -> None:
    """Check that points may stand in one table, plot or frontier.

    Raises
    ------
    DataError
        If two points differ in a field of :data:`MERGE_KEYS`; names the field and both values.
    """
    for point in points[1:]:
        for field in MERGE_KEYS:
            ours, other = getattr(points[0], field), getattr(point, field)
            if ours != other:
                raise DataError(
                    f"points of different backend, dtype, model, prompt, data or split do not merge: {field} is "
                    f"{ours!r} in {points[0].name!r} and {other!r} in {point.name!r}; choose the points of one {field}"
                )


def _points_file(path: str | os.PathLike[str]) -> Path:
    place = Path(path)
    return place / POINTS_FILE if place.is_dir() else place


def _parse(line: bytes, where: str) -> Point:
    try:
        return Point.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{where}, {_first(error)}; mend or remove the line") from None


def _line(point: Point) -> str:
    try:
        Point.model_validate(point.model_dump())
    except ValidationError as error:
        raise DataError(f"point {point.name!r}, {_first(error)}; it cannot be stored, measure it again") from None
    return point.model_dump_json() + "\n"


def _first(error: ValidationError) -> str:
    """The first thing that is wrong."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole line"
    return f"field {field}: {first['msg'].removeprefix('Value error, ')}"


def _is_torn(tail: bytes) -> bool:
    """Whether bytes after the last newline are only the beginning of a line: no proper prefix of an object is JSON."""
    try:
        from_json(tail or b"{}")
    except ValueError:
        return True
    return False


def _end_with_newline(file: Path) -> None:
    """Cut a torn tail off; a whole last line that only lacks its newline gets it."""
    with file.open("a+b") as stream:
        stream.seek(0)
        content = stream.read()
        start = content.rfind(b"\n") + 1
        if _is_torn(content[start:]):
            warnings.warn(f"{file}: its last line was torn by a crash and is cut off", stacklevel=3)
            stream.truncate(start)
        elif content[start:]:
            stream.write(b"\n")
