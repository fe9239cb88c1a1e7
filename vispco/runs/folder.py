"""The folder of one run: what was asked, every point that was measured, and what came out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vispco.disk import replace_file
from vispco.errors import RunError
from vispco.frontier import Point, append_points
from vispco.runs.composed import read_composed

STATE = "state"
"""Folder in it of what an unfinished run has found out."""


class RunFolder:
    """Where the files of a run are.

    ``config.yaml``, ``points.jsonl`` (append-only), ``frontier.json``, ``frontier.png``, ``costs.png``
    (FLOPs against time, where time is known), ``schedules.png``, ``report.html``, one configuration per budget, and
    ``state/``, what an unfinished run has found out so far.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path):
        self.path = path
        self.points = path / "points.jsonl"
        self.frontier = path / "frontier.json"
        self.figure = path / "frontier.png"
        self.costs = path / "costs.png"
        self.schedules = path / "schedules.png"
        self.report = path / "report.html"

    @classmethod
    def create(cls, path: Path, config: str) -> "RunFolder":
        """The folder ``path`` for a run with the composed configuration, as YAML text.

        A folder whose run is :attr:`finished` stays as it is. One whose run was cut short is for the same run again,
        which goes on with its state; points are removed, because the run writes all of them at its end.

        Raises
        ------
        RunError
            If the folder cannot be written or holds a run with another configuration.
        """
        folder = cls(path)
        stated = (path / STATE).exists() and (path / "config.yaml").exists()  # the state alone knows what it is of
        if folder.points.exists() or folder.finished or stated:
            folder._check(config)
        if folder.finished:
            return folder
        try:
            path.mkdir(parents=True, exist_ok=True)
            for left in (folder.points, *path.glob(".*.tmp")):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{path}: cannot be made ({error.strerror}); choose another hydra.run.dir") from None
        folder.write("config.yaml", config)
        return folder

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end; ``frontier.json`` is the last file that it writes."""
        return self.frontier.exists()

    def _check(self, config: str) -> None:
        """Refuse another configuration than that of the run that is here; how progress is shown does not matter."""
        try:
            theirs = _leaves(read_composed(self.path / "config.yaml"))
        except RunError:
            raise RunError(
                f"{self.path} holds a run already, and its config.yaml cannot be read; choose another hydra.run.dir or "
                "remove it"
            ) from None
        ours = _leaves(OmegaConf.to_container(OmegaConf.create(config)))
        for key in dict.fromkeys((*ours, *theirs)):
            if key != "progress" and ours.get(key) != theirs.get(key):
                raise RunError(
                    f"{self.path} holds a run already, with {key} = {theirs.get(key)!r} and not {ours.get(key)!r}; "
                    "choose another hydra.run.dir or remove it"
                )

    def add(self, points: Sequence[Point]) -> None:
        """Append measured points; RunError if the folder is not the one any more that was made for them."""
        if not (self.path / "config.yaml").exists():
            raise RunError(f"{self.path}: was removed while the run was in it; run the same command again")
        append_points(self.points, points)

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file whole or not at all; RunError if the folder cannot be written."""
        try:
            replace_file(self.path / name, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}); choose another hydra.run.dir") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON with sorted keys."""
        self.write(name, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")

    def read_frontier(self) -> dict[str, Any]:
        """The result of a finished run.

        Raises
        ------
        RunError
            If there is none or it cannot be read.
        """
        try:
            result: dict[str, Any] = json.loads(self.frontier.read_text(encoding="utf-8"))
        except OSError:
            raise RunError(f"{self.path} has no frontier.json; give the folder of a finished `vispco search`") from None
        except ValueError as error:
            raise RunError(f"{self.frontier}: not valid JSON ({error}); run the search again") from None
        if not isinstance(result, dict):
            raise RunError(f"{self.frontier}: holds no result of a search; run the search again")
        return result


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """What is in nested mappings, by dotted name."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        deeper: leaf
        for key, inner in value.items()
        for deeper, leaf in _leaves(inner, f"{name}.{key}" if name else str(key)).items()
    }
