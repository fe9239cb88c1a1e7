"""Experiment trackers: nothing, or Weights & Biases. The run folder stays the record; a tracker only shows it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vispco.frontier import Point


class Tracker(Protocol):
    """Shows a run while it goes on and what came out."""

    def log(self, values: Mapping[str, float]) -> None:
        """Scalars of one step."""

    def finish(
        self, points: Sequence[Point], summary: Mapping[str, float], files: Mapping[str, Path], cost: str = "flops"
    ) -> None:
        """Points as a table with a frontier chart over a cost, scalars of the whole run, and files as one artifact."""

    def close(self, failed: bool) -> None:
        """End the run, whatever happened."""


class NoTracker:
    """Shows nothing."""

    def log(self, values: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(
        self, points: Sequence[Point], summary: Mapping[str, float], files: Mapping[str, Path], cost: str = "flops"
    ) -> None:
        """Nothing."""

    def close(self, failed: bool) -> None:
        """Nothing."""


class WandbTracker:
    """One Weights & Biases run per search; with ``mode="offline"`` it never touches a network.

    Parameters
    ----------
    folder : Path
        Run folder; W&B writes below it.
    config : mapping
        The composed configuration.
    mode, project, group
        As in ``wandb.init``.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, mode: str, project: str, group: str | None):
        for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            os.environ.setdefault(variable, str(folder.absolute() / "wandb"))
        import wandb

        self._wandb = wandb
        (folder / "wandb").mkdir(exist_ok=True)
        self._run = wandb.init(
            dir=str(folder),
            config=dict(config),
            mode=mode,  # type: ignore[arg-type]
            project=project,
            group=group,
            job_type="search",
            name=folder.name,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, values: Mapping[str, float]) -> None:
        """Scalars of one step, as history."""
        self._run.log(dict(values))

    def finish(
        self, points: Sequence[Point], summary: Mapping[str, float], files: Mapping[str, Path], cost: str = "flops"
    ) -> None:
        """Table ``points``, chart ``frontier``, the run's summary and an artifact of type ``pareto-config``."""
        costs = sorted(set.intersection(*(set(point.costs) for point in points)))
        columns: list[str | int] = ["name", "method", "split", *costs, "score", "kl", "keep"]
        table = self._wandb.Table(columns=columns)
        for point in points:
            numbers = (*(point.costs[name] for name in costs), point.quality["score"], point.quality["kl"])
            table.add_data(point.name, point.method, point.split, *numbers, str(list(point.keep)))
        chart = self._wandb.plot.scatter(table, cost, "score", title="frontier")
        self._run.log({"points": table, "frontier": chart})
        self._run.summary.update(dict(summary))
        artifact = self._wandb.Artifact("pruning-config", type="pareto-config")
        for name, path in files.items():
            artifact.add_file(str(path), name=name)
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        """End the run with exit code 0 or 1."""
        self._run.finish(exit_code=int(failed))
