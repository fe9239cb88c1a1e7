"""``vispco search``: compose the configuration, run the job, fill the run folder."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
import torch
import transformers
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

import vispco
from vispco import parallel
from vispco.cli.cells import cell
from vispco.cli.job import Outcome, SearchJob
from vispco.cli.launching import FOLDER, in_background, one_line, waiting
from vispco.cli.overrides import config_folder
from vispco.cli.predicting import FILE, predictor_file
from vispco.cli.presentation import report_data
from vispco.cli.result import configs, frontier_record, results, summary
from vispco.errors import InputError, ParallelError, RunError
from vispco.report import COST_NAMES, plot_costs, plot_frontiers, plot_schedules, write_report
from vispco.runs import NoTracker, RunFolder, RunSettings, Tracker, WandbTracker, alone_in, record_environment
from vispco.runs.settings import WandbSettings

OURS = "this is no error of Hydra's"
"""Note on errors of the file system: Hydra's own are about the run folder."""


def search(arguments: Sequence[str]) -> None:
    """Run one search, or several with ``--multirun``; in the processes of ``torchrun``, one together.

    Raises
    ------
    InputError
        The first one of any job, after all jobs have had their turn.
    LostError
        If a job in a process of its own ended without a result.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with _seen_from(arguments) as words, one_line(), waiting():
        sys.argv = ["vispco search", *words]
        program = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="search")(job)
        try:
            program()
        except OSError as error:
            if OURS in getattr(error, "__notes__", ()) or isinstance(error, HydraException):
                raise
            raise RunError(f"the run folder cannot be made ({error}); choose another hydra.run.dir") from None


def job(composed: DictConfig) -> None:
    """One search as Hydra calls it, here or in a process that a launcher started.

    Raises
    ------
    InputError
        In a sweep it names the job.
    """
    logging.disable_progress_bar()  # of transformers; a launcher's process has not gone through the program's start
    hydra_config = HydraConfig.get()
    folder, sweep = Path(hydra_config.runtime.output_dir), hydra_config.mode == RunMode.MULTIRUN
    try:
        if parallel.size() > 1 and sweep:
            raise ParallelError("torchrun runs one search at a time; leave --multirun out, or torchrun")
        if sweep:
            print(f"{FOLDER}{folder}")
        run(composed, folder)
    except InputError as error:
        if not sweep:
            raise
        raise type(error)(f"job {hydra_config.job.num}: {error}") from None
    except OSError as error:
        error.add_note(OURS)
        raise


@contextmanager
def _seen_from(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The arguments for this process: any but the main one prints nothing, and has a folder that is thrown away."""
    if parallel.is_main():
        yield list(arguments)
        return
    with TemporaryDirectory() as place, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield [*arguments, f"hydra.run.dir={place}"]


def run(composed: DictConfig, path: Path) -> None:
    """One search into the folder ``path``; nothing if it is there already."""
    plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    plain.pop("experiment", None)
    settings = RunSettings.parse(plain)
    parallel.check_same(_facts(plain))
    if in_background() or not parallel.is_main():
        settings = settings.model_copy(update={"progress": False})
    if not parallel.is_main():
        if not parallel.told(False):
            SearchJob(settings, NoTracker(), path).run()
        return
    with alone_in(path):
        folder = RunFolder.create(path, OmegaConf.to_yaml(OmegaConf.create(plain)))
        if parallel.told(folder.finished):
            print(f"{path}: finished already")
            return
        tracker = _tracker(settings, folder, {**plain, "environment": record_environment(folder)})
        failed = True
        try:
            outcome = SearchJob(settings, tracker, folder.path).run()
            _write(folder, settings, outcome, tracker)
            failed = False
        finally:
            tracker.close(failed)
        _print(folder, outcome)


def _facts(plain: dict[str, Any]) -> dict[str, str]:
    """What processes that work together must have in common."""
    devices = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return {
        "the configuration": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8],
        "vispco": vispco.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": str(torch.get_num_threads()),
        "the processor": torch.backends.cpu.get_cpu_capability(),
        "the GPU": ", ".join(sorted(set(devices))) or "none",
    }


def _tracker(settings: RunSettings, folder: RunFolder, plain: dict[str, Any]) -> Tracker:
    if isinstance(settings.tracker, WandbSettings):
        options = settings.tracker.model_dump(exclude={"name"})
        options["group"] = options["group"] or _experiment(folder.path)
        return WandbTracker(folder, plain, **options)
    return NoTracker()


def _experiment(path: Path) -> str:
    """What runs are grouped by if nothing is said: their sweep, or the run alone."""
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else path.name


def _write(folder: RunFolder, settings: RunSettings, outcome: Outcome, tracker: Tracker) -> None:
    folder.add([*(point for found in outcome.found for point in found.points), *outcome.points])
    versions = {
        "vispco": vispco.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    title = f"{outcome.card.name}, {' + '.join(settings.selectors)}"
    plot_frontiers(outcome.points, folder.figure, cost=outcome.cost, title=title)
    if "latency" in outcome.unpruned.costs:
        plot_costs(outcome.points, folder.costs, "flops", "latency", title=title)
    plot_schedules([(row.budget, row.point.keep) for row in outcome.rows], folder.schedules, title=title)
    write_report(folder.report, report_data(settings, outcome, folder.path.name, versions))
    predictor = predictor_file(settings, outcome, folder.path.name)
    if predictor is not None:
        folder.write(FILE, predictor)
    shown = (folder.points, folder.frontier, folder.figure, folder.report)
    files = {path.name: path for path in shown}
    for config in configs(settings, outcome, folder.path.name, versions):
        name = f"config-{config.budget:g}.json"
        config.save(folder.path / name)
        files[name] = folder.path / name
    folder.write_json("frontier.json", frontier_record(settings, outcome, folder.path.name, versions))  # last
    tracker.finish(results(outcome), files, outcome.cost)


def _print(folder: RunFolder, outcome: Outcome) -> None:
    table = Table(title=cell(f"{outcome.card.name}: unpruned accuracy {outcome.unpruned.quality['score']:.3f}"))
    cost = COST_NAMES[outcome.cost]
    for heading in ("budget", "schedule, % kept per layer", "accuracy", cost, "best grid", "regret [95 %]"):
        table.add_column(heading, justify="right" if heading != "schedule, % kept per layer" else "left")
    for row in outcome.rows:
        keep = " ".join(f"{100 * ratio:.0f}" for ratio in row.point.keep)
        numbers = (f"{row.point.quality['score']:.3f}", f"{row.point.costs[outcome.cost]:.3f}")
        rival = f"{row.rival.quality['score']:.3f} @ {row.rival.costs[outcome.cost]:.3f}" if row.rival else "-"
        interval = f"{row.regret.value:+.3f} [{row.regret.low:+.3f}, {row.regret.high:+.3f}]" if row.regret else "-"
        table.add_row(f"{row.budget:g}", keep, *numbers, rival, interval)
    console = Console(width=max(120, Console().width))
    console.print(table)
    for name, value in summary(outcome).items():
        console.print(f"{name}: {value:.4f}", highlight=False)
    console.print(cell(f"run folder: {folder.path}"), soft_wrap=True)
