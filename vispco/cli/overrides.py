"""Hydra overrides of commands that write no run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import vispco
from vispco.runs import RunSettings


def config_folder() -> Path:
    """Where the configuration groups are: in the installed package, or beside it in a checkout."""
    package = Path(vispco.__file__).parent
    return next(folder for folder in (package.parent / "conf", package / "conf") if (folder / "search.yaml").exists())


def parse_overrides(overrides: Sequence[str]) -> RunSettings:
    """The composed and validated settings.

    Raises
    ------
    HydraException, ConfigError
        If an override does not fit.
    """
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        plain: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            compose("search", list(overrides)), resolve=True
        )
    plain.pop("experiment", None)
    return RunSettings.parse(plain)
