"""A Weights & Biases run that holds the points of several searches: one table, one chart, indicators as summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vispco.frontier import Point, pareto_front
from vispco.runs.guard import PATIENCE, Guard
from vispco.runs.wandb_run import COLUMNS, give_up, row, settle, start


def record_comparison(
    home: Path,
    runs: Mapping[str, Sequence[Point]],
    series: Mapping[str, Sequence[Point]],
    indicators: Mapping[str, float],
    picture: bytes,
    *,
    cost: str,
    mode: str,
    project: str,
    group: str | None,
    patience: float = PATIENCE,
) -> None:
    """Write the run; whatever W&B does, this returns, with a line on stderr if there is none.

    Parameters
    ----------
    home : Path
        W&B writes below it.
    runs : mapping of str to sequence of Point
        All points by the run that they are of, for the table ``points``.
    series : mapping of str to sequence of Point
        What has a line of its own in the chart ``frontiers``; its front is drawn.
    indicators : mapping of str to float
    picture : bytes
        The same chart as a PNG.
    cost : str
        Of the chart.
    mode, project, group
        As in ``wandb.init``.
    patience : float
        Seconds to wait for each of its steps.
    """

    def record() -> None:
        run = start(
            home, {"runs": list(runs), "cost": cost},
            mode=mode, project=project, group=group, job_type="compare", name=f"compare {len(runs)} runs",
        )  # fmt: skip
        import wandb

        rows = [[name, *row(point)] for name, points in runs.items() for point in points]
        fronts = {name: pareto_front(points, cost) for name, points in series.items()}
        lines = wandb.plot.line_series(
            [[point.costs[cost] for point in front] for front in fronts.values()],
            [[point.quality["score"] for point in front] for front in fronts.values()],
            keys=list(fronts), title="frontiers", xname=cost,
        )  # fmt: skip
        table = wandb.Table(columns=["run", *COLUMNS], data=rows)
        with TemporaryDirectory() as folder:
            image = Path(folder) / "frontiers.png"
            image.write_bytes(picture)
            run.log({"points": table, "frontiers": lines, "overlay": wandb.Image(str(image))})
            run.summary.update(dict(indicators))
            run.finish()

    guard = Guard("W&B", give_up, patience)
    guard.wait(record)
    guard.wait(settle)
    guard.end()
