"""Experiment trackers: nothing, or Weights & Biases. The run folder stays the record; a tracker only shows it."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vispco.frontier import Point
from vispco.runs.folder import RunFolder
from vispco.runs.guard import PATIENCE, Guard
from vispco.runs.wandb_run import give_up, settle, show_points, start

if TYPE_CHECKING:
    import wandb

IDENTITY = "wandb.json"
"""File of the run folder that W&B knows it by."""


@dataclass(frozen=True)
class Result:
    """What one method came to.

    Attributes
    ----------
    method : str
    points : sequence of Point
        Of the report split.
    summary : dict of str to float
        Scalars of the method; those of the main method are about the whole search too.
    """

    method: str
    points: Sequence[Point]
    summary: Mapping[str, float]


class Tracker(Protocol):
    """Shows a run while it goes on and what came out; never raises, and never waits for long."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step of the main method."""

    def finish(self, results: Sequence[Result], files: Mapping[str, Path], cost: str) -> None:
        """Results of the main method and its baselines, their frontiers over a cost, and files by name."""

    def close(self, failed: bool) -> None:
        """End the run, whatever happened."""


class NoTracker:
    """Shows nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(self, results: Sequence[Result], files: Mapping[str, Path], cost: str) -> None:
        """Nothing."""

    def close(self, failed: bool) -> None:
        """Nothing."""


class WandbTracker:
    """One Weights & Biases run per method: that of the search lives as long as it, baselines follow at its end.

    All of them have the same table, chart and summary, and are in one group. The same run folder gives the same runs:
    a search that is started again in it goes on with them.

    Parameters
    ----------
    folder : RunFolder
        W&B writes below it.
    config : mapping
        The composed configuration.
    mode, project, group
        As in ``wandb.init``; with ``mode="offline"`` no network is touched.
    patience : float
        Seconds to wait for W&B to start, to take the results, and to end.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        *,
        mode: str,
        project: str,
        group: str,
        patience: float = PATIENCE,
    ):
        self._folder, self._config = folder, config
        self._options = {"mode": mode, "project": project, "group": group}
        self._run: wandb.Run | None = None
        self._curves: set[str] = set()
        self._guard = Guard("W&B", give_up, patience)
        self._guard.wait(self._begin)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step, as history over ``step``."""
        self._guard.soon(lambda: self._log(step, dict(values)))

    def finish(self, results: Sequence[Result], files: Mapping[str, Path], cost: str) -> None:
        """Table ``points``, chart ``frontier`` and summary in every run; an artifact of the files in the main one."""
        main, *baselines = results
        self._guard.wait(lambda: self._show(main, files, cost))
        for result in baselines:
            self._guard.wait(partial(self._baseline, result, cost))

    def close(self, failed: bool) -> None:
        """End the run with exit code 0 or 1."""
        self._guard.wait(lambda: self._main.finish(exit_code=int(failed)))
        self._guard.wait(settle)
        self._guard.end()

    @property
    def _main(self) -> "wandb.Run":
        assert self._run is not None
        return self._run

    def _begin(self) -> None:
        self._run = self._start(self._config["search"]["name"], "search")
        if self._run.offline:  # also where online was asked for: no need to try again for every baseline
            self._options["mode"] = "offline"

    def _start(self, method: str, job_type: str) -> "wandb.Run":
        name = f"{self._folder.path.name} {method} seed {self._config['seed']}"
        config = {**self._config, "method": method}
        run_id = f"{_identity(self._folder)}-{method}"
        return start(self._folder.path, config, job_type=job_type, name=name, run_id=run_id, **self._options)

    def _log(self, step: int, values: dict[str, float]) -> None:
        for name in values.keys() - self._curves:
            self._main.define_metric(name, step_metric="step")  # W&B's own steps count calls, also after a restart
            self._curves.add(name)
        self._main.log({"step": step, **values})

    def _show(self, result: Result, files: Mapping[str, Path], cost: str) -> None:
        import wandb

        show_points(self._main, result.points, cost)
        self._main.summary.update(dict(result.summary))
        artifact = wandb.Artifact(f"pruning-config-{_identity(self._folder)}", type="pareto-config")
        for name, path in files.items():
            artifact.add_file(str(path), name=name)
        self._main.log_artifact(artifact)

    def _baseline(self, result: Result, cost: str) -> None:
        run = self._start(result.method, "baseline")
        show_points(run, result.points, cost)
        run.summary.update(dict(result.summary))
        run.finish()


def _identity(folder: RunFolder) -> str:
    """What the ids of the folder's runs begin with: drawn once, then kept in the folder."""
    try:
        return str(json.loads((folder.path / IDENTITY).read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, LookupError, TypeError):
        drawn = secrets.token_hex(4)
        folder.write_json(IDENTITY, {"id": drawn})
        return drawn
