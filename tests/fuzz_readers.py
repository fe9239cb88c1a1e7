"""Everything that reads outside bytes, each as a function of a folder in which one file is damaged."""

import contextlib
import functools
import io
import json
import tempfile
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import fuzz_seeds as seeds
import numpy as np
import optuna
import torch
from tables import picture

from vispco.cli import main
from vispco.cli.seeds import seed_groups
from vispco.config import PruningConfig
from vispco.cost import LatencyTable, Workload, make_costs
from vispco.data import Picture, Sample, Source, data_fingerprint, make_scorer
from vispco.data.scorers import REGISTRY as SCORERS
from vispco.engine.checkpoint import _check_files
from vispco.errors import InputError
from vispco.evaluation import TeacherCache
from vispco.frontier import append_points, hypervolume, pareto_front, read_points
from vispco.report.series import group_series
from vispco.search import open_storage, studies
from vispco.search.journal import working
from vispco.selectors import make_selector


@dataclass(frozen=True)
class Reader:
    """One way in.

    Attributes
    ----------
    file : str
        Name of the file that is damaged.
    seeds : callable
        Good contents of it.
    read : callable
        Uses the folder as vispco does; a VispcoError is how it may refuse.
    share : float
        Of all inputs, relative to others.
    beside : mapping
        Good files in the same folder.
    """

    file: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    share: float = 1.0
    beside: dict[str, Callable[[], bytes]] = field(default_factory=dict)


def _configuration(folder):
    config = PruningConfig.load(folder / "best.json")
    config.save(folder / "again.json")
    assert PruningConfig.load(folder / "again.json") == config
    assert (folder / "again.json").read_bytes() == config.to_json().encode()
    (folder / "again.json").unlink()
    make_selector(config.selector, config.selector_params)
    config.project_to_input()


def _points(folder):
    points = read_points(folder)
    append_points(folder, points[:1])
    assert read_points(folder) == points + points[:1]
    pareto_front(points)
    hypervolume(points)
    group_series(points)


def _latency(folder):
    table = LatencyTable.load(folder / "latency.json")
    table.check(table.key.model_copy(update={"threads": 1, "device": "abacus"}))
    for cost in make_costs(Workload(seeds.DECODER, [(6, 16), (9, 40)], selector="fastv", table=table)).values():
        assert cost.exact(seeds.KEEP) >= 0
        cost.soft(torch.tensor(seeds.KEEP, dtype=torch.float64))


def _table(name, folder):
    source = Source(str(folder / name), max_broken=10**6)
    samples = [sample for split in ("test", "validation") for sample in _drawn(source, split)]
    assert all(min(sample.image.size) > 0 for sample in samples)
    data_fingerprint(samples)


def _drawn(source, split):
    """Samples; a split that has none is no fault."""
    try:
        return source.draw(split, 5, "area").samples
    except InputError as error:
        if "no samples of split" not in str(error):
            raise
        return []


def _picture(folder):
    [sample] = Source(str(folder / "t.jsonl")).draw("test", 1).samples
    assert sample.image.mode == "RGB"


def _command(folder, *words, output):
    """A command: exit code 0 and a whole file, or 2, one clean line and no file."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = main([*words, "-o", str(folder / output)])
    lines = complained.getvalue().splitlines()
    for text in (said.getvalue(), complained.getvalue()):
        assert not [each for each in text if each != "\n" and unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]
    assert (folder / output).exists() == (code == 0), f"code {code}, output {(folder / output).exists()}"
    if code == 0:
        (folder / output).unlink()
        return
    assert code == 2, f"exit code {code}"
    assert len(lines) == 1, f"{len(lines)} lines: {lines[:3]}"
    raise InputError(lines[0])


def _export(folder):
    try:
        _command(folder, "export", str(folder), "--budget", "0.5", output="best.json")
    finally:
        _command(
            folder, "export", str(folder), "--budget", "0.6", "--project-to-input", "uniform_grid", output="best.json"
        )


def _compare(folder):
    _command(folder, "compare", str(folder), "--wandb", "none", output="both.html")


def _settings(folder):
    seed_groups([str(folder), str(folder)])


def _predict(folder):
    _command(folder, "export", str(folder), "--budget", "0.5", "--predict", output="best.json")


@functools.cache
def _journal_seeds():
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "study.log"
        study = studies.open_study(open_storage(str(path)), "s", {"model": "m", "samples": 3}, 2)
        study.enqueue_trial({"x": 0.5})
        for _ in range(3):
            trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
            trial.set_user_attr("costs", {"flops": 0.5})
            study.tell(trial, [0.5, trial.params["x"]])
        return [path.read_bytes()]


def _journal(folder):
    with working("study.log"):
        study = studies.open_study(open_storage(str(folder / "study.log")), "s", {"model": "m", "samples": 3}, 2)
        study.get_trials()
    for left in folder.glob("study.log.lock*"):
        raise AssertionError(f"{left.name} is left")


def _scorer_seeds():
    folder = Path(__file__).parent / "data" / "scorers" / "cases"
    found = []
    for path in sorted(folder.glob("*.json")):
        for case in json.loads(path.read_text()):
            answers = case["answers"] if isinstance(case["answers"], list) else [case["answers"].split(" x ")[1]]
            found.append(f"{path.stem}\n{case['said']}\n{answers[0]}".encode())
    return found


_PICTURE = Picture(picture((20, 10)))


def _score(folder):
    """Every scorer on an answer and a reference."""
    text = (folder / "answer.txt").read_bytes().decode("utf-8", "replace")
    _, said, true = [*text.split("\n", 2), "", ""][:3]
    sample = Sample("1", _PICTURE, "q", true or "a", "all", options=(("A", "a cat"), ("B", "10")))
    for name in SCORERS:
        scorer = make_scorer(name, {"scale": 1000} if name == "grounding" else {})
        assert 0 <= scorer.score(said, sample) <= 1
        assert all(np.isfinite(total) for total in scorer.totals([said, said], [sample, sample]).values())
        with contextlib.suppress(InputError):
            scorer.check(sample)


_ORIGIN = {"model": "m"}


@functools.cache
def _cached():
    with tempfile.TemporaryDirectory() as place:
        cache = TeacherCache(Path(place))
        cache.recall(_ORIGIN, (2,), lambda: torch.ones(2, 3))
        return cache.path(_ORIGIN).name, cache.path(_ORIGIN).read_bytes()


def _cache(folder):
    """What is damaged is computed again."""
    cache = TeacherCache(folder)
    assert torch.equal(cache.recall(_ORIGIN, (2,), lambda: torch.ones(2, 3)), torch.ones(2, 3))


RUN = {
    "frontier.json": lambda: seeds.frontier_files()[0],
    "points.jsonl": lambda: seeds.points_files()[0],
    "config.yaml": lambda: seeds.run_configurations()[0],
}
IMAGE = {"a.png": picture}
ROW = {"t.jsonl": lambda: b'{"image": "a.png", "question": "q", "answer": "a", "split": "test"}'}

READERS = {
    "configuration": Reader("best.json", seeds.configuration_files, _configuration, 30),
    "points": Reader("points.jsonl", seeds.points_files, _points, 24),
    "latency table": Reader("latency.json", seeds.latency_tables, _latency, 3),
    "tsv": Reader("t.tsv", seeds.tables_tsv, functools.partial(_table, "t.tsv"), 10, IMAGE),
    "jsonl": Reader("t.jsonl", seeds.tables_jsonl, functools.partial(_table, "t.jsonl"), 5, IMAGE),
    "llava": Reader("t.json", seeds.tables_llava, functools.partial(_table, "t.json"), 10, IMAGE),
    "picture": Reader("a.png", seeds.pictures, _picture, 20, ROW),
    "run, exported": Reader("frontier.json", seeds.frontier_files, _export, 1, RUN),
    "run, compared": Reader("points.jsonl", seeds.points_files, _compare, 0.4, RUN),
    "run, its settings": Reader("config.yaml", seeds.run_configurations, _settings, 2),
    "predictor": Reader("predictor.safetensors", seeds.predictors, _predict, 2),
    "journal": Reader("study.log", _journal_seeds, _journal, 3),
    "answers": Reader("answer.txt", _scorer_seeds, _score, 10),
    "teacher cache": Reader(_cached()[0], lambda: [_cached()[1]], _cache, 5),
    "checkpoint": Reader(
        "config.json",
        lambda: [json.dumps(seeds.DECODER.to_dict() | {"model_type": "llava"}).encode()],
        lambda folder: _check_files(folder, "m"),
        5,
    ),
}
"""By name."""

warnings.simplefilter("ignore")  # torn lines are said, and Pillow says what it finds odd
optuna.logging.set_verbosity(optuna.logging.WARNING)
studies.PATIENCE = 0.1  # a study without identity is waited for
