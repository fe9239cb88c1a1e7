"""What a run exported, measured once more on the model and the samples that it was measured on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from vispco.cli.finding import Method, progress_bar
from vispco.cli.job import FACTORS
from vispco.cli.loading import load_both, source_of
from vispco.cli.official import judge_of, official_of
from vispco.cli.opening import open_model
from vispco.cli.profile import TABLE
from vispco.cli.recorded import Applied, Recorded, applied
from vispco.config import ModelCard, PruningConfig
from vispco.cost import LatencyTable
from vispco.data import Sample, Task
from vispco.engine import model_card, prune
from vispco.errors import RunError
from vispco.evaluation import Candidate, Evaluator, Ledger, Provenance, measure, measure_downsampled
from vispco.frontier import Point
from vispco.runs.settings import GridMethod, LearnedMethod

CHECKED = {
    "model": "give the checkpoint of then with model.path=...",
    "prompt": "give the chat template of then, with the checkpoint in model.path=...",
    "data": "give the samples of then with data.path=...",
    "backend": "use releases that choose the attention of then",
    "dtype": "use releases that open the checkpoint as then",
}
"""What must be as it was before anything is measured, and what to do where it is not."""


@dataclass(frozen=True)
class Repeated:
    """What was measured once more.

    Attributes
    ----------
    points : dict of Applied to Point
        Of the report split.
    smaller : dict of str to Point
        Of the control that shows smaller pictures, by name.
    chosen_by : dict of Applied to float
        KL of what was exported, on the samples of the search split that it was chosen by.
    slices : dict of str to int
        Samples of the report split by their slice.
    timed : bool
        Whether the times are known that the run predicted with.
    on_cpu : bool
    """

    points: dict[Applied, Point]
    smaller: dict[str, Point]
    chosen_by: dict[Applied, float]
    slices: Mapping[str, int]
    timed: bool
    on_cpu: bool


def repeat(run: Recorded, points: Sequence[Point], console: Console) -> Repeated:
    """Measure the configurations of a run and some of its points; answers that earlier runs have kept are not used.

    Raises
    ------
    InputError
        Before anything is measured, if the model or the samples cannot be had or are not what they were, or a schedule
        is not for this model.
    """
    settings, data = run.settings, run.settings.data
    source_of(data)
    official, table = official_of(data), _table(run)
    model, processor = open_model(settings.model)
    loaded = load_both(data, model, processor)
    searching, reporting = loaded.searching.samples, loaded.reporting.samples

    def provenance(samples: Sequence[Sample]) -> Provenance:
        return Provenance.of(model, processor, settings.seed, samples, judge_of(data), Task(data.prompt))

    origin = provenance(reporting)
    _check(run, origin, provenance(searching))
    exported = {applied(config): config for config in run.configs.values()}
    asked: dict[Applied, Point | PruningConfig] = {applied(each): each for each in points if each.selector != "none"}
    asked.update(exported)
    card = model_card(model)
    for each in asked.values():
        _check_fits(model, card, each)

    bar = partial(progress_bar, console=console, shown=settings.progress)
    evaluator_on = partial(
        Evaluator, model, processor, selector=settings.selector.name, selector_params=settings.selector.params,
        batch_size=data.batch_size, new_tokens=settings.cost.new_tokens, table=table,
    )  # fmt: skip

    def measured(on: Evaluator, what: Sequence[Point | PruningConfig], split: str) -> dict[Applied, Point]:
        candidates = [
            Candidate(str(index), "again", each.keep, None, each.selector_params, each.selector)
            for index, each in enumerate(what)
        ]
        with bar(f"{split} split: {len(what)} schedules", len(on.samples)) as (progress, task):
            found = measure(on, candidates, origin, split=split, advance=partial(progress.advance, task))
        return {applied(each): point for each, (point, _) in zip(what, found, strict=True)}

    number = _judged_on(settings.search, len(searching))
    whole = -(-number // data.batch_size) * data.batch_size  # in the batches of then: rounding depends on their shape
    search = evaluator_on(searching[:whole]).head(number, Ledger())
    chosen_by = {key: p.quality["kl"] for key, p in measured(search, [*exported.values()], data.search_split).items()}
    del search
    report = evaluator_on(reporting, official=official)
    pictures = any(point.selector == "none" for point in points)
    smaller = measure_downsampled(report, FACTORS, origin, split=data.report_split) if pictures else []
    return Repeated(
        measured(report, [*asked.values()], data.report_split),
        {point.name: point for point, _ in smaller},
        chosen_by,
        Counter(sample.slice for sample in reporting),
        table is not None,
        next(model.parameters()).device.type == "cpu",
    )


def _check(run: Recorded, report: Provenance, search: Provenance) -> None:
    """Refuse another model, prompt or data than those that the points are of."""
    recorded = [(point, found) for points, found in ((run.points, report), (run.searched, search)) for point in points]
    for field, advice in CHECKED.items():
        for point, found in recorded:
            then, now = getattr(point, field), getattr(found, field)
            if then != now:
                whose = f"{field} of {point.name!r} ({point.split} split)"
                raise RunError(f"{run.path}: {whose} is {then!r} in the record and {now!r} here; {advice}")
    for name, config in run.configs.items():
        if config.model.fingerprint != report.model:
            raise RunError(
                f"{run.path}: model of {name} is {config.model.fingerprint!r} in the record and {report.model!r} here; "
                f"{CHECKED['model']}"
            )


def _check_fits(model: Any, card: ModelCard, of: Point | PruningConfig) -> None:
    """ConfigError if a schedule is not for this model: what was recorded may have been changed since."""
    own = card.model_copy(update={"layers": len(of.keep)})
    with prune(model, PruningConfig(selector=of.selector, selector_params=of.selector_params, keep=of.keep, model=own)):
        pass


def _table(run: Recorded) -> LatencyTable | None:
    """The times that the run predicted with: its own, or those that it was given, if they are still the same."""
    digest = run.points[0].basis.get("latency")
    for place in (run.path / TABLE, *map(Path, filter(None, [run.settings.cost.table]))):
        if digest is not None and place.exists():
            table = LatencyTable.load(place)
            if table.digest == digest:
                return table
    return None


def _judged_on(method: Method, samples: int) -> int:
    """The number of samples, of those to search with, that the KL of an exported configuration is the mean over."""
    if isinstance(method, GridMethod):
        return samples
    return min(method.samples, method.select_samples if isinstance(method, LearnedMethod) else samples, samples)
