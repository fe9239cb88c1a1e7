"""Recorded numbers held against those that were measured once more.

On the same machine with the same releases numbers must be equal to the last bit. Elsewhere products are summed in
another order: then costs, which are counted in integers, must still be equal, and quality may differ by as much as
:data:`KL_ALLOWED` and :data:`SAMPLES_ALLOWED` say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vispco.cli.recorded import Recorded, applied
from vispco.cli.repeating import Repeated
from vispco.cost import TIMED
from vispco.frontier import Point

KL_ALLOWED = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.05}
"""Difference of a mean KL, in nats, by dtype. Measured were 2e-6, 0.027 and 0.020, see docs/reproducibility.md: in half
precision some tokens that are worth the same change places."""

SAMPLES_ALLOWED = {"float32": 0.002, "float16": 0.01, "bfloat16": 0.02}
"""Difference of a mean score, by dtype; one sample in its place always may have another. Measured were 0, 0, 0.016."""

SLACK = 1e-9
"""Of means that are rounded themselves."""


@dataclass(frozen=True)
class Held:
    """One number.

    Attributes
    ----------
    record : str
        What it is recorded for: a point, or a configuration by its file.
    field : str
    then, now : float or None
        None where there is none.
    allowed : float
        Difference up to which they agree.
    """

    record: str
    field: str
    then: float | None
    now: float | None
    allowed: float

    @property
    def difference(self) -> float | None:
        """Absolute; None where one of the numbers is missing."""
        return None if self.then is None or self.now is None else abs(self.now - self.then)

    @property
    def agrees(self) -> bool:
        """Whether both are there and near enough."""
        return self.difference is not None and self.difference <= self.allowed * (1.0 + SLACK)


def hold(run: Recorded, points: Sequence[Point], again: Repeated, *, exact: bool) -> list[Held]:
    """Every number of the configurations and of these points.

    Costs in time are left out where the times that they were predicted from are not known. A configuration for which
    there is no verified point has one number that is missing.
    """
    tolerance = _Tolerance(run.points[0].dtype, again.slices, exact)

    def held(record: str, then: Mapping[str, float], now: Mapping[str, float]) -> Iterator[Held]:
        for field in dict.fromkeys([*then, *now]):
            if again.timed or field.removeprefix("costs.") not in TIMED:
                yield Held(record, field, then.get(field), now.get(field), tolerance.of(field))

    found: list[Held] = []
    known = {applied(point) for point in points}
    for name, config in run.configs.items():
        point = again.points[applied(config)]
        quality = {"kl": again.chosen_by[applied(config)], "score": point.quality["score"]}
        found += held(
            name, _flat(costs=config.costs, quality=config.quality), _flat(costs=point.costs, quality=quality)
        )
        if applied(config) not in known:
            found.append(Held(name, "verified point", None, 1.0, 0.0))
    for point in points:
        same = again.smaller.get(point.name) if point.selector == "none" else again.points[applied(point)]
        found += held(point.name, _numbers(point), {} if same is None else _numbers(same))
    return found


def _numbers(point: Point) -> dict[str, float]:
    return {**_flat(costs=point.costs, quality=point.quality, slices=point.slices), "samples": point.samples}


def _flat(**parts: Mapping[str, float]) -> dict[str, float]:
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


@dataclass(frozen=True)
class _Tolerance:
    dtype: str
    slices: Mapping[str, int]
    exact: bool

    def of(self, field: str) -> float:
        """Difference that is allowed in one field."""
        kind, _, name = field.partition(".")
        if self.exact or kind not in ("quality", "slices"):
            return 0.0
        if field == "quality.kl":
            return KL_ALLOWED[self.dtype]
        samples = self.slices.get(name, 1) if kind == "slices" else sum(self.slices.values())
        return max(SAMPLES_ALLOWED[self.dtype], 1.0 / samples)
