"""The pruning configuration: what a search hands over, as a versioned JSON that people can read."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from vispco.errors import ConfigError
from vispco.projection import describe_loss, uniform_ratio
from vispco.schedule import check_keep

SCHEMA_VERSION = "1.0"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelCard(_Frozen):
    """Which model a configuration is for.

    Attributes
    ----------
    type : str
        ``model_type`` of the Hugging Face configuration.
    layers : int
        Number of decoder layers.
    name : str
        Name or path it was loaded from; for people, not compared.
    fingerprint : str
        Digest of the weights' names, shapes and a sample of their values.
    """

    type: str
    layers: Annotated[int, Field(ge=1)]
    name: str = ""
    fingerprint: str = ""


class PruningConfig(_Frozen):
    """Selector, its parameters and a schedule, for one model; validated, immutable, byte-stable as JSON.

    Attributes
    ----------
    schema_version : str
        "major.minor"; a newer major version is refused.
    selector, selector_params
        Which method decides *which* tokens stay, and its own settings.
    keep : tuple of float, length layers
        Fraction of the sample's original visual tokens that enter each decoder layer, non-increasing.
    model : ModelCard
    budget : float or None
        Allowed cost as a fraction of the unpruned language-model prefill, if it was made for one.
    costs, quality : dict of str to float
        What was measured, e.g. ``{"flops": 0.48}`` and ``{"score": 0.91}``.
    provenance : dict
        Run, seed, split and versions.
    """

    schema_version: str = SCHEMA_VERSION
    selector: str
    selector_params: dict[str, JsonValue] = {}
    keep: tuple[Finite, ...]
    model: ModelCard
    budget: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    costs: dict[str, Finite] = {}
    quality: dict[str, Finite] = {}
    provenance: dict[str, JsonValue] = {}

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, version: str) -> str:
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise ValueError(f"version {version!r} cannot be read by this release, which reads {SCHEMA_VERSION}")
        return version

    @field_validator("keep")
    @classmethod
    def _monotone(cls, keep: tuple[float, ...]) -> tuple[float, ...]:
        try:
            return check_keep(keep)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def model_post_init(self, context: Any, /) -> None:
        """Check the length of the schedule against the model."""
        if len(self.keep) != self.model.layers:
            raise ValueError(
                f"keep has {len(self.keep)} ratios but model.layers is {self.model.layers}; give one ratio per layer"
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PruningConfig":
        """Read and validate a JSON file.

        Raises
        ------
        ConfigError
            Naming the file and the first field that is wrong.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); give the path of an exported configuration") from None
        try:
            return cls.from_json(text)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> "PruningConfig":
        """Validate JSON text; see :meth:`load`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"not valid JSON ({error}); the file may be truncated, export it again") from None
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: object) -> "PruningConfig":
        """Validate what JSON parsing gave; see :meth:`load`."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise ConfigError(f"field {field}: {first['msg'].removeprefix('Value error, ')}") from None

    def to_json(self) -> str:
        """JSON text, equal for equal configurations."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` whole or not at all.

        Raises
        ------
        ConfigError
            If the place cannot be written.
        """
        target = Path(path)
        temporary = target.parent / f".vispco.{os.getpid()}.tmp"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except (OSError, ValueError) as error:
            with suppress(OSError, ValueError):
                temporary.unlink()
            raise ConfigError(f"{path}: cannot be written ({error}); choose another place") from None

    def project_to_input(
        self,
        cost: Callable[[Sequence[float]], float] | None = None,
        selector: str | None = None,
        selector_params: Mapping[str, JsonValue] | None = None,
    ) -> "InputProjection":
        """The single ratio before the first layer that costs as much as this schedule.

        Serving engines drop tokens before the language model or not at all; this is what they can run.

        Without ``cost`` the ratio is the mean of ``keep``. Projections and MLPs are linear in the number of tokens, so
        they cost the same; attention is convex in it, so it costs no more (Jensen's inequality). That holds to the last
        operation where no count is rounded. Rounding adds less than one token per layer: the projection never costs
        more than this schedule with one more text token. What a selector computes to choose is not part of this.

        Parameters
        ----------
        cost : callable or None
            From a schedule to its cost, e.g. ``FlopCost(...).exact``; must not fall when ratios rise. With it, the
            ratio is the largest one, to six decimals, that costs no more than this schedule.
        selector : str or None
            Which method chooses before the first layer; None for this configuration's own.
        selector_params : mapping or None
            Its settings; None for this configuration's own if the selector is the same, else for the defaults.

        Returns
        -------
        InputProjection

        Raises
        ------
        ConfigError
            If ``cost`` gives no number or falls when ratios rise, or ``selector_params`` is no JSON.
        """
        ratio = uniform_ratio(self.keep, cost)
        name = self.selector if selector is None else selector
        if selector_params is None:
            selector_params = self.selector_params if name == self.selector else {}
        config = PruningConfig.from_data(
            {
                **self.model_dump(),
                "selector": name,
                "selector_params": dict(selector_params),
                "keep": (ratio,) * len(self.keep),
                "costs": {},  # they were measured for this schedule
                "quality": {},
                "provenance": {**self.provenance, "projected_from": list(self.keep)},
            }
        )
        return InputProjection(ratio, config, describe_loss(self.keep, ratio, self.selector, name))


@dataclass(frozen=True)
class InputProjection:
    """A schedule reduced to one ratio before the first layer; see :meth:`PruningConfig.project_to_input`.

    Attributes
    ----------
    ratio : float
        Fraction of the visual tokens that enter the language model.
    config : PruningConfig
        With ``ratio`` in every layer and ``projected_from`` in its provenance; nothing is measured for it yet.
    loses : str
        Which layers see fewer tokens than under the schedule and which see more, for people.
    """

    ratio: float
    config: PruningConfig
    loses: str
