"""What a finished run has recorded about what it exported: settings, verified points, configurations, environments."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vispco.cli.export import read_configs
from vispco.config import PruningConfig
from vispco.errors import ConfigError, RunError
from vispco.frontier import Point, comparable, read_points
from vispco.runs import RunFolder, RunSettings, read_environments

MOVED = ("model.path", "model.revision", "model.device_map", "data.path", "data.images", "cost.table")
"""Settings that say where things are; they may be others on another machine, fingerprints tell whether it fits."""

Applied = tuple[str, str, tuple[float, ...]]
"""A schedule under a selector with its parameters: what a measured result is of."""


def applied(of: Point | PruningConfig) -> Applied:
    """What a point or a configuration is of."""
    return of.selector, repr(sorted(of.selector_params.items())), of.keep


@dataclass(frozen=True)
class Recorded:
    """A finished run.

    Attributes
    ----------
    path : Path
    settings : RunSettings
        With the places of this machine.
    points, searched : list of Point
        Of the report split and of the search split.
    configs : dict of str to PruningConfig
        By the file, for messages. A copy in ``frontier.json`` that differs from its file is one more.
    environments : list of dict
        Of every start; none if the run is from a release that did not record it.
    """

    path: Path
    settings: RunSettings
    points: list[Point] = field(repr=False)
    searched: list[Point] = field(repr=False)
    configs: dict[str, PruningConfig] = field(repr=False)
    environments: list[dict[str, Any]] = field(repr=False)

    @classmethod
    def read(cls, path: Path, moved: Sequence[str] = ()) -> "Recorded":
        """Read the folder of a run, with overrides of :data:`MOVED`.

        Raises
        ------
        InputError
            If the run is not finished, a file is missing or damaged, or an override is another one.
        """
        folder = RunFolder(path)
        entries = {_name(config, folder): config for config in read_configs(folder)}
        settings = _settings(path, moved)
        points = read_points(path)
        verified = [point for point in points if point.split == settings.data.report_split]
        if not verified:
            raise RunError(
                f"{folder.points}: has no points of split {settings.data.report_split!r}; run the search again"
            )
        comparable(verified)
        configs = {}
        for name, entry in entries.items():
            configs[name] = PruningConfig.load(path / name)
            if configs[name] != entry:
                configs[f"frontier.json, {name}"] = entry
        searched = [point for point in points if point.split == settings.data.search_split]
        return cls(path, settings, verified, searched, configs, read_environments(path))


def _name(config: PruningConfig, folder: RunFolder) -> str:
    if config.budget is None:
        raise RunError(f"{folder.frontier}: a configuration has no budget; run the search again")
    return f"config-{config.budget:g}.json"


def _settings(path: Path, moved: Sequence[str]) -> RunSettings:
    for word in moved:
        key = word.partition("=")[0]
        if key not in MOVED or "=" not in word:
            raise ConfigError(
                f"override {word!r} would make another run of it; only where things are can be told: "
                f"{', '.join(f'{name}=...' for name in MOVED)}"
            )
    file = path / "config.yaml"
    try:
        merged = OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_dotlist(list(moved)))
        plain: Any = OmegaConf.to_container(merged, resolve=True)
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror}); give the folder of a finished search") from None
    except Exception as error:  # of YAML, of OmegaConf, of bytes that are no text
        first = str(error).splitlines()[0]
        raise RunError(f"{file}: cannot be read ({first}); run the search again") from None
    if not isinstance(plain, dict):
        raise RunError(f"{file}: holds no settings; run the search again")
    try:
        return RunSettings.parse(plain)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
