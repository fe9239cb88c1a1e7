"""``vispco eval``: task scores of one exported configuration, by stock ``generate``."""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from vispco.cli.cells import cell
from vispco.cli.loading import load_report, source_of
from vispco.cli.official import judge_of, official_of
from vispco.cli.opening import open_model
from vispco.cli.overrides import parse_overrides
from vispco.cli.parsing import Parser
from vispco.config import PruningConfig
from vispco.data import Task, make_scorer
from vispco.engine import prune
from vispco.errors import ModelError
from vispco.evaluation import (
    Assessed,
    Assessment,
    Provenance,
    VisualSize,
    generate_answers,
    kept_share,
    smaller_images,
    visual_sizes,
)
from vispco.frontier import Interval
from vispco.report.files import check_writable, write_whole
from vispco.runs import RunSettings

CONTROLS = ("random", "uniform_grid", "downsampled")
"""The same schedule under selectors that look at nothing, and pictures made smaller to as many visual tokens."""


def evaluate(arguments: Sequence[str]) -> None:
    """Score the configuration, controls and the unpruned model on the report split.

    Raises
    ------
    InputError
        If the file, an option, an override, the model or the data cannot be used; before anything is generated.
    """
    options = _parse(arguments)
    config = PruningConfig.load(options.config)
    for place in (options.output, options.answers):
        if place is not None:
            check_writable(place)
    settings = parse_overrides(options.overrides)
    data = settings.data
    source_of(data)
    judge = official_of(data)
    scorer = judge.scorer if judge else make_scorer("exact_match")
    model, processor = open_model(settings.model)
    samples = load_report(data)
    for sample in samples:
        scorer.check(sample)
    sizes = visual_sizes(model, processor, samples)
    assessed: dict[str, Assessed] = {}
    console = Console(width=max(120, Console().width))
    with _bar() as advance:
        generate = partial(
            generate_answers, model, batch_size=data.batch_size, max_new_tokens=data.max_new_tokens, advance=advance
        )
        share = kept_share(config.keep, sizes)
        for name, block in _contenders(config, options.controls, settings.seed, model, processor, share).items():
            try:
                with block() as used:
                    assessed[name] = Assessed.of(generate(used or processor, samples), samples, scorer)
            except ModelError as error:
                if not name.startswith("control"):
                    raise
                console.print(cell(f"{name} is missing: {error}"), highlight=False, soft_wrap=True)
    found = Assessment(samples, assessed, settings.seed)
    if options.answers is not None:
        write_whole(options.answers, _answers(found).encode())
    if options.output is not None:
        write_whole(options.output, _record(found, config, settings, sizes, model, processor).encode())
    _print(console, found, sizes, share)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="vispco eval", description=__doc__)
    parser.add_argument("config", type=Path, help="JSON file of `vispco export`")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write: scores, intervals, totals")
    parser.add_argument("--answers", type=Path, help="JSONL file to write: every answer with its score")
    parser.add_argument(
        "--controls", type=_controls, default=CONTROLS, help=f"comma-separated, or none ({','.join(CONTROLS)})"
    )
    parser.add_argument("overrides", nargs="*", help="of model and data, as for `vispco search`")
    return parser.parse_intermixed_args(list(arguments))


def _controls(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    for name in names:
        if name not in CONTROLS:
            raise argparse.ArgumentTypeError(f"control {name!r} is unknown; choose of {', '.join(CONTROLS)}, or none")
    return names


def _contenders(
    config: PruningConfig, controls: Sequence[str], seed: int, model: Any, processor: Any, share: float
) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """Blocks inside which to generate, by name; a block yields the processor to use if it is another one."""

    def pruned(selector: str, **params: int) -> Callable[[], AbstractContextManager[Any]]:
        return partial(_pruned, model, config.model_copy(update={"selector": selector, "selector_params": params}))

    found: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "unpruned": nullcontext,
        config.selector: partial(_pruned, model, config),
        "control: random": pruned("random", seed=seed),
        "control: uniform_grid": pruned("uniform_grid"),
        "control: downsampled": partial(smaller_images, model, processor, math.sqrt(share)),
    }
    return {
        name: block
        for name, block in found.items()
        if not name.startswith("control") or name.removeprefix("control: ") in controls
    }


@contextmanager
def _pruned(model: Any, config: PruningConfig) -> Iterator[None]:
    with prune(model, config):
        yield


@contextmanager
def _bar() -> Iterator[Callable[[int], None]]:
    """A line on the terminal that says how many answers there are."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("answers", total=None)
        yield lambda answers: progress.advance(task, answers)


def _answers(found: Assessment) -> str:
    """One line per sample and configuration."""
    lines = (
        {"index": sample.index, "slice": sample.slice, "configuration": name, "answer": text, "score": float(score)}
        for name, assessed in found.assessed.items()
        for sample, text, score in zip(found.samples, assessed.answers, assessed.scores, strict=True)
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


def _record(
    found: Assessment, config: PruningConfig, settings: RunSettings, sizes: Sequence[VisualSize], model: Any,
    processor: Any,
) -> str:  # fmt: skip
    """The JSON file: everything that the table shows, and what it is of."""
    data = settings.data
    judged = judge_of(data)
    origin = Provenance.of(model, processor, settings.seed, found.samples, judged, Task(data.prompt))
    results = {
        name: {
            "score": found.score(name),
            "change": found.change(name),
            "retained": found.retained(name),
            "worst_slice": found.worst_slice(name),
            "slices": {
                slice: {
                    "samples": len(members),
                    "score": found.score(name, members),
                    "change": found.change(name, members),
                }
                for slice, members in found.slices.items()
            },
            "totals": assessed.totals,
        }
        for name, assessed in found.assessed.items()
    }
    record = {
        "schema_version": "1.0",
        "config": config.model_dump(mode="json"),
        "data": {"path": data.path, "split": data.report_split, "samples": len(found.samples), "scorer": judged},
        "visual_tokens": _tokens(sizes, kept_share(config.keep, sizes)),
        "provenance": vars(origin),
        "results": results,
    }
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def _tokens(sizes: Sequence[VisualSize], share: float) -> dict[str, float]:
    """Means per sample: visual tokens of the language model (merged), and patches of the vision tower (raw)."""
    merged, raw = (sum(getattr(size, unit) for size in sizes) / len(sizes) for unit in ("tokens", "patches"))
    return {"merged": merged, "raw": raw, "kept_merged": share * merged, "kept_raw": share * raw, "kept_share": share}


def _print(console: Console, found: Assessment, sizes: Sequence[VisualSize], share: float) -> None:
    names = list(found.assessed)
    table = Table("", "samples", title="accuracy [95 %]")
    for name in names:
        table.add_column(cell(name))
    for slice, members in found.slices.items():
        table.add_row(cell(slice), str(len(members)), *(_shown(found.score(name, members)) for name in names))
    table.add_section()
    table.add_row("all", str(len(found.samples)), *(_shown(found.score(name)) for name in names))
    others = names[1:]
    table.add_row("change", "", "", *(_shown(found.change(name), "+") for name in others))
    table.add_row("retained, %", "", "", *(_shown(found.retained(name), unit=100.0, digits=1) for name in others))
    table.add_row("worst slice", "", "", *(_worst(found, name) for name in others))
    totals = dict.fromkeys(total for assessed in found.assessed.values() for total in assessed.totals)
    for total in totals:
        table.add_row(total, "", *(f"{found.assessed[name].totals[total]:.3f}" for name in names))
    console.print(table)
    tokens = _tokens(sizes, share)
    console.print(
        f"visual tokens per sample: {tokens['merged']:.1f} in the language model, from {tokens['raw']:.1f} patches; "
        f"on average a layer runs {tokens['kept_merged']:.1f} of them ({100 * share:.1f} %), as many as "
        f"{tokens['kept_raw']:.1f} patches make",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _worst(found: Assessment, name: str) -> Text:
    slice = found.worst_slice(name)
    return Text.assemble(cell(f"{slice} "), _shown(found.change(name, found.slices[slice]), "+"))


def _shown(interval: Interval | None, sign: str = "", unit: float = 1.0, digits: int = 3) -> str:
    if interval is None:
        return "-"
    value, low, high = (f"{unit * end:{sign}.{digits}f}" for end in interval)
    return f"{value}\n[{low}, {high}]"
