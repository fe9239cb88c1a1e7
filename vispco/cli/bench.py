"""``vispco bench``: what an exported configuration delivers against the stock model on this machine."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vispco.capacity import within_memory
from vispco.cli.cells import cell
from vispco.cli.loading import load_report, source_of
from vispco.cli.opening import open_model
from vispco.cli.overrides import parse_overrides
from vispco.cli.parsing import Parser
from vispco.config import PruningConfig
from vispco.data import Sample
from vispco.engine.placing import device_of
from vispco.errors import ConfigError, DataError
from vispco.evaluation import encode_samples
from vispco.frontier import Interval
from vispco.profiling import WARM_UP, Bench, Compared, bench
from vispco.report.files import check_writable, write_whole

MIB = 2**20


def run_bench(arguments: Sequence[str]) -> None:
    """Measure, print a table, and write JSON if asked to.

    Raises
    ------
    InputError
        If the file, an option, an override, the model or the data cannot be used; before anything is measured.
    CapacityError
        If a batch does not fit into memory, with the size of one that does.
    """
    options = _parse(arguments)
    config = PruningConfig.load(options.config)
    if options.output:
        check_writable(options.output)
    settings = parse_overrides(options.overrides)
    data = settings.data
    wanted = min(data.report_samples, options.batch * (WARM_UP + options.pairs))
    if wanted < options.batch:
        raise ConfigError(
            f"--batch {options.batch} is more than data.report_samples={data.report_samples}; "
            "lower the one or raise the other"
        )
    source_of(data)
    model, processor = open_model(settings.model)
    samples = load_report(data, wanted)
    with _bar() as advance:

        def measure(batch: int, rounds: int, warm_up: int = WARM_UP) -> Bench:
            inputs = _batches(model, processor, samples, batch)
            return bench(
                model, inputs, config, new_tokens=options.new_tokens, rounds=rounds, warm_up=warm_up,
                clock=options.clock, seed=settings.seed, advance=advance,
            )  # fmt: skip

        result = within_memory(
            partial(measure, rounds=options.pairs), options.batch, "--batch",
            probe=partial(measure, rounds=1, warm_up=0),
        )  # fmt: skip
    if options.output:
        write_whole(options.output, result.to_json().encode())
    _print(result)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="vispco bench", description=__doc__)
    parser.add_argument("config", type=Path, help="JSON file of `vispco export`")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--batch", type=_number, default=1, help="samples that run at once (1)")
    parser.add_argument("--new-tokens", type=_number, default=32, help="tokens decoded after the first one (32)")
    parser.add_argument("--pairs", type=_number, default=20, help="measured rounds (20)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: time of the process alone (wall)"
    )
    parser.add_argument("overrides", nargs="*", help="of model and data, as for `vispco search`")
    return parser.parse_intermixed_args(list(arguments))


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _batches(model: Any, processor: Any, samples: Sequence[Sample], size: int) -> list[dict[str, Any]]:
    """Inputs of ``generate``, batches of equal size; samples that fill no batch are left out."""
    if len(samples) < size:
        raise DataError(f"the report split has {len(samples)} samples, too few for --batch {size}; lower it")
    batches = []
    for start in range(0, len(samples) - size + 1, size):
        part = samples[start : start + size]
        inputs = encode_samples(processor, part)
        batches.append(dict(inputs.to(device_of(model), dtype=model.dtype)))
    return batches


@contextmanager
def _bar() -> Iterator[Any]:
    """A line on the terminal that says how many answers were timed."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("answers", total=None)
        yield lambda: progress.advance(task)


def _print(result: Bench) -> None:
    facts, protocol = result.environment, result.protocol
    table = Table(title=cell(f"{result.config.selector} on {facts['model']}, batch {facts['batch']}"))
    for heading in ("", "stock", "pruned", "ratio [95 %]"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows: list[tuple[str, Compared, float, int]] = [
        ("time to first token, ms", result.first, 1e3, 2),
        ("tokens per second after it", result.decode, 1.0, 1),
        ("peak memory of a prefill, MiB", result.peak, 1 / MIB, 2),
        ("KV cache after it, MiB", result.kv, 1 / MIB, 2),
    ]
    if result.energy:
        rows.append(("energy of a prefill, J", result.energy, 1.0, 3))
    for name, compared, unit, digits in rows:
        values = (f"{unit * value:.{digits}f}" for value in (compared.stock, compared.pruned))
        table.add_row(name, *values, _interval(compared.ratio))
    table.add_section()
    table.add_row("FLOPs of the prefill", "", "", f"{result.flops:.3f}")
    table.add_row("time ratio over FLOPs ratio", "", "", _interval(result.delivered))
    if result.selector:
        table.add_row("choosing, beyond random, ms", "", "", _interval(result.selector.seconds, 1e3))
        table.add_row("the same over the stock time to first token", "", "", _interval(result.selector.share))
    for name, label in (("first", "time to first token"), ("decode", "tokens per second")):
        table.add_row(f"stock against itself, {label}", "", "", _interval(result.noise[name]))
    table.add_row("drift of the stock model", "", "", f"{result.drift:.3f}")
    console = Console(width=max(110, Console().width))
    console.print(table)
    console.print(
        f"{facts['device']}, {facts['threads']} threads, {facts['dtype']}, {facts['backend']}; "
        f"{protocol['clock']} clock, {protocol['rounds']} rounds; "
        f"torch {facts['torch']}, transformers {facts['transformers']}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if not result.energy:
        console.print(f"no energy: {result.energy_source}", highlight=False, soft_wrap=True)


def _interval(interval: Interval, unit: float = 1.0) -> str:
    value, low, high = (unit * end for end in interval)
    return f"{value:.3f}" if low == high else f"{value:.3f} [{low:.3f}, {high:.3f}]"
