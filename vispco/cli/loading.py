"""Samples under the settings, as all commands take them; what is left out is said on the terminal."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from vispco.cli.cells import cell
from vispco.data import Broken, Drawn, Sample, Source, Splits, Task, check_apart
from vispco.evaluation import token_counter
from vispco.runs.settings import DataSettings


@dataclass(frozen=True)
class Loaded:
    """Samples to search with and to report on.

    Attributes
    ----------
    searching, reporting : Drawn
    shared : int
        Pictures in both, with different questions.
    """

    searching: Drawn
    reporting: Drawn
    shared: int

    def record(self) -> dict[str, Any]:
        """Counts, for the record of a run."""
        return {
            "search": self.searching.record(),
            "report": self.reporting.record(),
            "shared_pictures": self.shared,
        }


def source_of(data: DataSettings) -> Source:
    """Where the samples come from.

    Raises
    ------
    InputError
        If a setting cannot be, before anything is read.
    """
    source = Source(
        path=data.path,
        reader=data.reader,
        images=data.images,
        task=Task(data.prompt),
        splits=Splits(data.split_by, data.fractions),
        seed=data.seed,
        max_broken=data.max_broken,
    )
    source.check(data.search_split, data.report_split)
    return source


def load_report(data: DataSettings, count: int | None = None) -> list[Sample]:
    """Samples to report on, drawn without bias whatever the search is given; ``count`` in place of the setting.

    Raises
    ------
    InputError
        If they cannot be had.
    """
    drawn = source_of(data).draw(data.report_split, count or data.report_samples, "random")
    _say([*_left_out(drawn)], drawn.tally.named)
    return drawn.samples


def load_both(data: DataSettings, model: Any, processor: Any) -> Loaded:
    """Samples to search with, drawn as the settings say, and to report on.

    Raises
    ------
    InputError
        If they cannot be had, or a sample is in both.
    """
    source = source_of(data)
    tokens = token_counter(model, processor) if data.sampling == "tokens" else None
    searching = source.draw(data.search_split, data.search_samples, data.sampling, tokens)
    reporting = source.draw(data.report_split, data.report_samples, "random")
    shared = check_apart(searching.samples, reporting.samples)
    lines = dict.fromkeys([*_left_out(searching), *_left_out(reporting)])  # a table that holds both says it once
    if shared:
        lines[f"{shared} pictures are in both splits, with other questions; data.split_by=hash keeps them apart"] = None
    named = dict.fromkeys([*searching.tally.named, *reporting.tally.named])
    _say(lines, named)
    return Loaded(searching, reporting, shared)


def _left_out(drawn: Drawn) -> list[str]:
    tally, lines = drawn.tally, []
    if tally.broken:
        lines.append(f"{tally.broken} broken rows are left out")
    if tally.pictureless:
        lines.append(f"{tally.pictureless} rows without a picture are passed over")
    if drawn.distinct < len(drawn.samples):
        lines.append(f"{len(drawn.samples)} samples to search with are of {drawn.distinct} rows, which balances them")
    return lines


def _say(lines: Iterable[str], named: Iterable[Broken]) -> None:
    console = Console(stderr=True)
    for line in (*map(str, named), *lines):
        console.print(cell(line), highlight=False, soft_wrap=True)
