"""``config.yaml`` of a run folder, read as data of strangers."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from vispco.errors import RunError


def read_composed(path: Path) -> dict[str, Any]:
    """The composed configuration in a file; interpolations in it stay text.

    Aliases are refused: no configuration of ours has any, and a few lines of them stand for billions of values.

    Raises
    ------
    RunError
        If it cannot be read, or is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases")
        found: Any = OmegaConf.to_container(OmegaConf.create(text))
        if not isinstance(found, dict):
            raise ValueError(f"it is {type(found).__name__}, not a mapping")
    except Exception as error:  # of the file system, of YAML, of OmegaConf
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path}: no configuration of a run ({reason}); run the search again") from None
    return found
