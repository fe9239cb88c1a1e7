"""The pruning configuration: what a search hands over, as a versioned JSON that people can read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, JsonValue, field_validator

from vispco.document import Document, Frozen
from vispco.errors import ConfigError
from vispco.projection import describe_loss, uniform_ratio
from vispco.schedule import check_keep

SCHEMA_VERSION = "1.0"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class ModelCard(Frozen):
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


class PruningConfig(Document):
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
        Allowed cost as a fraction of the unpruned model's, if it was made for one; of which cost is in ``provenance``.
    costs, quality : dict of str to float
        What was measured, e.g. ``{"flops": 0.48}`` and ``{"score": 0.91}``.
    provenance : dict
        Run, seed, split and versions.
    """

    VERSION: ClassVar[str] = SCHEMA_VERSION
    WANTED: ClassVar[str] = "give the path of an exported configuration"
    DAMAGED: ClassVar[str] = "export it again"

    schema_version: str = SCHEMA_VERSION
    selector: str
    selector_params: dict[str, JsonValue] = Field(default_factory=dict)
    keep: tuple[Finite, ...]
    model: ModelCard
    budget: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    costs: dict[str, Finite] = Field(default_factory=dict)
    quality: dict[str, Finite] = Field(default_factory=dict)
    provenance: dict[str, JsonValue] = Field(default_factory=dict)

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
