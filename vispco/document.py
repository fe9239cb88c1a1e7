"""Versioned JSON documents: validated on reading, equal bytes for equal content, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import from_json

from vispco.disk import replace_file
from vispco.errors import ConfigError

MAX_BYTES = 2**26
"""Longer files are refused before they are parsed."""


class Frozen(BaseModel):
    """Part of a document: immutable, without unknown fields, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Document(Frozen):
    """A document with a version.

    Attributes
    ----------
    schema_version : str
        "major.minor"; another major version is refused.
    """

    VERSION: ClassVar[str]
    """Version that is written."""

    WANTED: ClassVar[str]
    """What to do about a file that cannot be read, e.g. "give the path of an exported configuration"."""

    DAMAGED: ClassVar[str]
    """What to do about one that is no JSON, e.g. "export it again"."""

    schema_version: str

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, version: str) -> str:
        if version.split(".")[0] != cls.VERSION.split(".")[0]:
            raise ValueError(f"version {version!r} cannot be read by this release, which reads {cls.VERSION}")
        return version

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and validate a JSON file.

        Raises
        ------
        ConfigError
            Naming the file and the first field that is wrong.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            text = content.decode("utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); {cls.WANTED}") from None
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: has more than {MAX_BYTES} bytes; {cls.WANTED}")
        try:
            return cls.from_json(text)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Validate JSON text; see :meth:`load`."""
        try:
            data = from_json(text)  # unlike the standard library's, it refuses what UTF-8 cannot write again
        except ValueError as error:
            raise ConfigError(f"not valid JSON ({error}); the file may be truncated, {cls.DAMAGED}") from None
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Validate what JSON parsing gave; see :meth:`load`."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise ConfigError(f"field {field}: {first['msg'].removeprefix('Value error, ')}") from None

    def to_json(self) -> str:
        """JSON text, equal for equal documents."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` whole or not at all.

        Raises
        ------
        ConfigError
            If the place cannot be written.
        """
        try:
            replace_file(Path(path), self.to_json().encode())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path}: cannot be written ({reason}); choose another place") from None
