"""The composed configuration of a search, validated before any work is done."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from vispco.cost import TIMED, check_cost
from vispco.errors import ConfigError
from vispco.saying import hide_passwords

Positive = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0.0, le=1.0)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelSettings(_Group):
    """Which checkpoint, and how it is opened."""

    path: str
    revision: str | None = None
    dtype: str
    device_map: str | None = None
    attention: str


class DataSettings(_Group):
    """Samples to search with and to report on; the two splits differ."""

    path: str
    reader: str | None = None
    images: str | None = None
    prompt: str
    scorer: str
    scorer_params: dict[str, JsonValue] = {}
    seed: int
    split_by: Literal["column", "hash"]
    fractions: dict[str, Ratio]
    search_split: str
    search_samples: Positive
    sampling: Literal["first", "random", "area", "tokens"]
    report_split: str
    report_samples: Positive
    max_broken: Annotated[int, Field(ge=0)]
    batch_size: Positive
    max_new_tokens: Positive
    cache_gib: Annotated[float, Field(ge=0.0)]

    @field_validator("path")
    @classmethod
    def _given(cls, path: str) -> str:
        if path == "???":
            raise ValueError("data.path is not given; name a table with data.path=...")
        return path


class SelectorSettings(_Group):
    """Which tokens stay."""

    name: str
    params: dict[str, JsonValue]


class KernelSettings(_Group):
    """The family of schedules that is learned; ``steps`` is for kernels that have several."""

    name: str
    steps: int = 1


class CostSettings(_Group):
    """What a budget limits; the rest is for costs of decoding and for costs in time."""

    name: str
    new_tokens: Positive = 32
    table: str | None = None
    batch: Positive = 1
    clock: Literal["wall", "cpu"] = "wall"


class BudgetSettings(_Group):
    """Allowed costs as fractions of the unpruned model's, and fixed limits on other costs by name."""

    values: Annotated[tuple[Ratio, ...], Field(min_length=1)]
    limits: dict[str, Ratio] = {}

    @field_validator("limits", mode="before")
    @classmethod
    def _none_at_all(cls, limits: Any) -> Any:
        return {} if limits is None else limits


class LearnedMethod(_Group):
    """Settings of :class:`vispco.search.LearnedSettings`."""

    name: Literal["learned"]
    samples: Positive
    predictor: bool
    anchors: Positive
    per_sample: bool
    steps: Positive
    batch: Positive
    starts: Positive
    lr: Annotated[float, Field(gt=0.0, le=1e6)]
    dual_every: Positive
    temperature: tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]]
    sharpness: tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]]
    straight_through: bool
    probe_ratios: Annotated[tuple[Ratio, ...], Field(min_length=2)]
    probe_samples: Positive
    start_levels: Annotated[int, Field(ge=2)]
    select_samples: Positive
    polish_rounds: Annotated[int, Field(ge=0)]
    polish_samples: Annotated[int, Field(ge=2)]
    tune: tuple[str, ...]
    knob_lr: Annotated[float, Field(gt=0.0, le=1e6)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.predictor and self.starts > 1:
            raise ValueError("a predictor has one start per budget; give search.starts=1 or search.predictor=false")
        if self.per_sample and not self.predictor:
            raise ValueError(
                "a schedule per sample needs a predictor; give search.predictor=true or search.per_sample=false"
            )
        return self


class SampledMethod(_Group):
    """Schedules with selectors and knobs of them, as an Optuna sampler proposes them; in memory unless told."""

    name: Literal["random", "tpe", "nsga2"]
    trials: Positive
    samples: Positive
    tune: tuple[str, ...]
    selectors: tuple[str, ...] = ()
    storage: str | None = None
    study: str | None = None

    @field_validator("storage")
    @classmethod
    def _without_password(cls, storage: str | None) -> str | None:
        if storage is not None and hide_passwords(storage) != storage:
            raise ValueError(
                f"storage = {hide_passwords(storage)!r} has a password, which would stand in the files of the run; "
                "leave it out of the URL and give it to the driver, e.g. in PGPASSWORD or ~/.pgpass for PostgreSQL"
            )
        return storage


class GridMethod(_Group):
    """A set of schedules that is evaluated whole."""

    name: Literal["grid", "step"]
    ladder: Annotated[tuple[Ratio, ...], Field(min_length=1)]


class FitPruneMethod(_Group):
    """Deletions per layer, fitted to calibration samples; settings of :class:`vispco.search.FitPruneSearch`."""

    name: Literal["fitprune"]
    samples: Positive
    bracket: Annotated[float, Field(gt=0.0, lt=1.0)]


class AutoPruneMethod(_Group):
    """A logistic retention curve; see :mod:`vispco.search.autoprune`."""

    name: Literal["autoprune"]
    samples: Positive
    x0: float
    k0: Annotated[float, Field(ge=0.0)]
    gamma: Annotated[float, Field(ge=0.0)]


class SensitivityMethod(_Group):
    """Single cuts on a ladder and a program over them; see :mod:`vispco.search.sensitivity`."""

    name: Literal["sensitivity"]
    samples: Positive
    ladder: Annotated[tuple[Ratio, ...], Field(min_length=1)]


class WithdrawalMethod(_Group):
    """All visual tokens leave before one layer; see :mod:`vispco.search.withdrawal`."""

    name: Literal["vtw"]
    samples: Positive
    first: Positive
    eta: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Field(min_length=1)]


class BaselineSettings(_Group):
    """Methods that the search is held against."""

    methods: tuple[Annotated[GridMethod | SampledMethod, Field(discriminator="name")], ...]


class NoTrackerSettings(_Group):
    """No tracker."""

    name: Literal["none"]


class WandbSettings(_Group):
    """Weights & Biases."""

    name: Literal["wandb"]
    mode: Literal["offline", "online", "disabled"]
    project: str
    group: str | None


class RunSettings(_Group):
    """Everything a search runs with."""

    model: ModelSettings
    data: DataSettings
    selector: SelectorSettings
    kernel: KernelSettings
    cost: CostSettings
    budget: BudgetSettings
    search: Annotated[
        LearnedMethod
        | GridMethod
        | SampledMethod
        | FitPruneMethod
        | AutoPruneMethod
        | SensitivityMethod
        | WithdrawalMethod,
        Field(discriminator="name"),
    ]
    baseline: BaselineSettings
    tracker: Annotated[NoTrackerSettings | WandbSettings, Field(discriminator="name")]
    seed: Annotated[int, Field(ge=0)]
    progress: bool

    @property
    def selectors(self) -> tuple[str, ...]:
        """Names of the selectors that the search chooses from."""
        several = self.search.selectors if isinstance(self.search, SampledMethod) else ()
        return several or (self.selector.name,)

    @property
    def timed(self) -> bool:
        """Whether a budget or a limit is on time."""
        return not TIMED.isdisjoint({self.cost.name, *self.budget.limits})

    @classmethod
    def parse(cls, composed: Mapping[str, Any]) -> "RunSettings":
        """Validate a composed configuration.

        Raises
        ------
        ConfigError
            Naming the first field that is wrong, a cost that there is not, or the split that is used twice.
        """
        try:
            settings = cls.model_validate(composed)
        except ValidationError as error:
            first = error.errors()[0]
            field = _field(first["loc"], composed)
            if first["type"] == "value_error":  # settings that do not go together
                raise ConfigError(f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None
            raise ConfigError(f"{field} = {first['input']!r}: {first['msg']}; override it with {field}=...") from None
        for name in (settings.cost.name, *settings.budget.limits):
            check_cost(name)
        if settings.cost.name in settings.budget.limits:
            raise ConfigError(
                f"budget.limits has {settings.cost.name!r}, which budget.values are of; limit another cost, or none"
            )
        if settings.data.search_split == settings.data.report_split:
            raise ConfigError(
                f"data.search_split and data.report_split are both {settings.data.search_split!r}; "
                "a result must be reported on samples that it was not chosen by"
            )
        return settings


def _field(place: Sequence[int | str], composed: Any) -> str:
    """The name by which a setting is overridden: pydantic puts the name of a method between its group and its setting."""
    parts: list[str] = []
    for part in place:
        if isinstance(composed, Mapping) and part == composed.get("name"):
            continue
        parts.append(str(part))
        try:
            composed = composed[part]
        except (LookupError, TypeError):  # what is missing has nothing in it
            composed = None
    return ".".join(parts)
