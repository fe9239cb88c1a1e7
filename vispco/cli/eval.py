"""``vispco eval``: task scores of one exported configuration, by stock ``generate``."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vispco.cli.opening import open_model
from vispco.cli.overrides import parse_overrides
from vispco.config import PruningConfig
from vispco.data import Sample, load_samples, make_scorer
from vispco.engine import prune
from vispco.errors import ConfigError
from vispco.evaluation import generate_answers
from vispco.frontier import paired_difference
from vispco.runs import RunSettings


def evaluate(arguments: Sequence[str]) -> None:
    """Score the configuration, Random under the same schedule and the unpruned model on the report split.

    Raises
    ------
    InputError
        If the file, an override, the model or the data cannot be used.
    """
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError("usage: vispco eval best.json [overrides]; the first word has to be the file")
    config = PruningConfig.load(arguments[0])
    settings = parse_overrides(arguments[1:])
    model, processor = open_model(settings.model)
    data = settings.data
    samples = load_samples(data.path, data.report_split, data.report_samples, seed=data.seed)
    control = config.model_copy(update={"selector": "random", "selector_params": {"seed": settings.seed}})
    scores = {
        name: _scores(model, processor, samples, settings, used)
        for name, used in (("unpruned", None), (config.selector, config), ("control: random", control))
    }
    _print(scores, samples, settings.seed)


def _scores(
    model: Any, processor: Any, samples: Sequence[Sample], settings: RunSettings, config: PruningConfig | None
) -> NDArray[np.float64]:
    """Score of every sample; ``config`` None for the unpruned model."""
    with prune(model, config) if config else nullcontext():
        said = generate_answers(
            model,
            processor,
            samples,
            batch_size=settings.data.batch_size,
            max_new_tokens=settings.data.max_new_tokens,
        )
    scorer = make_scorer("exact_match")
    return np.array([scorer.score(text, sample) for text, sample in zip(said, samples, strict=True)])


def _print(scores: dict[str, NDArray[np.float64]], samples: Sequence[Sample], seed: int) -> None:
    slices: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        slices[sample.slice].append(index)
    table = Table("", *scores)
    for name, members in sorted(slices.items()):
        table.add_row(name, *(f"{values[members].mean():.3f}" for values in scores.values()))
    table.add_section()
    table.add_row("all", *(f"{values.mean():.3f}" for values in scores.values()))
    unpruned = scores["unpruned"]
    cells = []
    for values in scores.values():
        change = paired_difference(values, unpruned, seed=seed)
        cells.append("" if values is unpruned else f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
    table.add_row("change [95 %]", *cells)
    console = Console(width=max(100, Console().width))
    console.print(table)
