"""Runs of Weights & Biases: how they are started and what every one of them has.

Everything here may raise or hang with the network, the disk or W&B's own process: :class:`vispco.runs.guard.Guard`
makes the calls.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vispco.cost import REGISTRY
from vispco.frontier import Point
from vispco.runs.guard import warn
from vispco.saying import hide_passwords

if TYPE_CHECKING:
    import wandb

COLUMNS = ("name", "method", "selector", "seed", "split", "budget", *REGISTRY, "score", "kl", "keep")
"""Columns of the table ``points``, the same in every run so that tables of several runs join; unknown costs are empty."""

INIT_SECONDS = 30.0
"""Seconds that a server may take to answer."""

FOLDERS = tuple(
    name for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR") if name not in os.environ
)
"""Places of W&B that the user has not chosen."""


def start(
    home: Path,
    config: Mapping[str, Any],
    *,
    mode: str,
    project: str,
    group: str | None,
    job_type: str,
    name: str,
    run_id: str | None = None,
) -> "wandb.Run":
    """Start a run that writes below ``home``; one with an id goes on where a run of that id stopped.

    An online run that cannot be started (no key, no network) becomes an offline one, and a line on stderr says so.

    Parameters
    ----------
    home : Path
        W&B makes a folder ``wandb`` in it.
    config : mapping
        Shown without the passwords of its URLs.
    mode, project, group, job_type, name, run_id
        As in ``wandb.init``.
    """
    folder = home.absolute() / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(dict.fromkeys(FOLDERS, str(folder)))
    if mode != "online":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # those reports would go over the network
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # else it asks for a key in the middle of a search
    shown = without_passwords(dict(config))

    def init(mode: str) -> "wandb.Run":
        return wandb.init(
            dir=str(home),
            config=shown,
            mode=mode,  # type: ignore[arg-type]
            project=project,
            group=group,
            job_type=job_type,
            name=name,
            id=run_id,
            resume="allow" if run_id else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                x_disable_meta=shown != config,  # among others the command line, which has the password too
            ),
        )

    try:
        return init(mode)
    except Exception as error:
        if mode != "online":
            raise
        warn(f"W&B is not reached ({error}); the run is recorded offline, upload it with: wandb sync {folder}/offline-run-*")
        wandb.teardown()  # the failed run still has the id
        return init("offline")


def give_up() -> None:
    """Shut W&B's process down, and take back its hook that would wait for that process when Python ends."""
    import wandb

    wandb.teardown()


def settle() -> None:
    """Wait for the files to be whole; only W&B's process knows, so it ends, unless somebody else has a run there."""
    import wandb

    if wandb.run is None:
        wandb.teardown()


def without_passwords(value: Any) -> Any:
    """The same nested value with ``***`` in place of every password of a URL."""
    if isinstance(value, Mapping):
        return {key: without_passwords(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_passwords(entry) for entry in value]
    return hide_passwords(value) if isinstance(value, str) else value


def row(point: Point) -> list[Any]:
    """A point in the order of :data:`COLUMNS`."""
    return [
        point.name, point.method, point.selector, point.seed, point.split, point.budget,
        *(point.costs.get(name) for name in REGISTRY),
        point.quality.get("score"), point.quality.get("kl"), str(list(point.keep)),
    ]  # fmt: skip


def show_points(run: "wandb.Run", points: Sequence[Point], cost: str) -> None:
    """Points as the table ``points`` and the chart ``frontier``, score over a cost."""
    import wandb

    table = wandb.Table(columns=list(COLUMNS), data=[row(point) for point in points])
    run.log({"points": table, "frontier": wandb.plot.scatter(table, cost, "score", title="frontier")})
