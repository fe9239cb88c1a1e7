"""A search that is started again goes on where it stopped, and comes to what it would have come to, byte by byte."""

import json
import shutil
from contextlib import contextmanager
from importlib import import_module

import pytest
from optuna.study import Study
from safetensors.torch import load_file, save_file
from timing import in_proportion

from vispco import state
from vispco.cli import main, resuming
from vispco.embedded import locate, shapes
from vispco.profiling.calibration import calibrate_for

SMALL = ["data.search_samples=8", "data.report_samples=8", "data.batch_size=4", "data.cache_gib=0", "tracker=none",
         "progress=false", "budget.values=[0.5,0.9]", "baseline=none"]  # fmt: skip
LEARNED = ["search.samples=8", "search.steps=4", "search.batch=2", "search.anchors=3", "search.probe_samples=2",
           "search.start_levels=2", "search.select_samples=6"]  # fmt: skip
METHODS = {
    "learned": LEARNED,
    "learned rows, with knobs": [*LEARNED, "search.predictor=false", "selector=balanced_fastv", "search.tune=[alpha]"],
    "learned per sample, polished": [*LEARNED, "search.per_sample=true", "search.polish_rounds=1",
                                     "search.polish_samples=6"],
    "grid": ["search=grid", "search.ladder=[1.0,0.2,0.03]"],
    "sensitivity": ["search=sensitivity", "search.samples=8", "search.ladder=[0.5,0.03]"],
    "tpe": ["search=tpe", "search.samples=8", "search.trials=12", "search.tune=[alpha]", "selector=balanced_fastv"],
    "nsga2": ["search=nsga2", "search.samples=4", "search.trials=24"],
    "tpe in memory": ["search=tpe", "search.samples=8", "search.trials=6", "search.storage=null"],
}  # fmt: skip


class Stop(BaseException):
    """The process ends here."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in ("write_report", "plot_frontiers", "plot_schedules", "plot_costs"):
        monkeypatch.setattr(import_module("vispco.cli.search"), name, lambda *_, **__: None)


def search(folder, *words):
    return main(["search", *SMALL, *words, f"hydra.run.dir={folder}"])


@contextmanager
def stopped_after(writes):
    """Let nothing more be kept after a number of files of the state and finished trials; a list as long as that."""
    done = []

    def counted(real):
        def write(*args, **kwargs):
            if len(done) == writes:
                raise Stop
            done.append(write)
            return real(*args, **kwargs)

        return write

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "replace_file", counted(state.replace_file))
        patch.setattr(Study, "tell", counted(Study.tell))
        try:
            yield done
        except Stop:
            assert writes is not None


def results(folder):
    files = [folder / "points.jsonl", folder / "frontier.json", *sorted(folder.glob("config-*.json"))]
    return {file.name: file.read_text().replace(folder.name, "RUN") for file in files}


def kept(folder):
    """Files of work in the state, as the very files that they are."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "state" / "work").glob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_ends_as_if_it_had_not_been_stopped(method, tmp_path, capsys):
    words = METHODS[method]
    with stopped_after(None) as all_writes:
        assert search(tmp_path / "alone", *words) == 0
    whole = results(tmp_path / "alone")
    assert len(whole["points.jsonl"].splitlines()) > 5
    for part in (0.3, 0.8):
        folder = tmp_path / f"stopped-{part}"
        with stopped_after(int(part * len(all_writes))):
            search(folder, *words)
        before = kept(folder)
        capsys.readouterr()
        assert search(folder, *words) == 0
        assert "goes on with what was found before" in capsys.readouterr().err
        assert before.items() <= kept(folder).items(), "something was found again"
        assert results(folder) == whole


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_times_are_measured_once(method, tmp_path, monkeypatch):
    calls = []

    def times(*args, **options):
        calls.append(options)
        return in_proportion(calibrate_for(*args, **{**options, "repeats": 1, "drift": 10.0}))

    monkeypatch.setattr(import_module("vispco.cli.profile"), "calibrate_for", times)
    words = ["cost=latency", *METHODS[method]]
    with stopped_after(4):
        search(tmp_path / "run", *words)
    table = (tmp_path / "run" / "latency.json").read_bytes()
    assert search(tmp_path / "run", *words) == 0
    assert len(calls) == 1
    assert (tmp_path / "run" / "latency.json").read_bytes() == table


# --- another search is refused ---------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    """A folder of a search that was stopped, its command, its checkpoint and its table."""
    model, table = tmp_path / "model", tmp_path / "table.tsv"
    shutil.copytree(locate("micro-llava"), model)
    for split in ("validation", "test"):
        shapes.write_tsv(tmp_path / split, split, 12)
    table.write_text((tmp_path / "validation").read_text() + (tmp_path / "test").read_text().split("\n", 1)[1])
    words = [*METHODS["grid"], f"model.path={model}", "data=table", f"data.path={table}"]
    with stopped_after(3):
        search(tmp_path / "run", *words)
    return tmp_path / "run", words, model, table


def refused(capsys, stopped):
    folder, words, *_ = stopped
    before = {path: path.read_bytes() for path in (folder / "state").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert search(folder, *words) == 2
    assert before == {path: path.read_bytes() for path in (folder / "state").rglob("*") if path.is_file()}
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("selector.name", "selector=random"),
        ("kernel.name", "kernel=free"),
        ("cost.name", "cost=kv"),
        ("seed", "seed=1"),
    ],
)
def test_with_other_settings(name, word, stopped, capsys):
    folder, words, *rest = stopped
    assert f"holds a run already, with {name} = " in refused(capsys, (folder, [*words, word], *rest))


def test_with_other_weights(stopped, capsys):
    path = next(stopped[2].glob("*.safetensors"))
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, path, {"format": "pt"})
    assert "is of a search with weights = " in refused(capsys, stopped)


@pytest.mark.parametrize(("split", "row"), [("search", 1), ("report", 13)])
def test_with_other_data(split, row, stopped, capsys):
    lines = stopped[3].read_text().rstrip("\n").split("\n")
    names, cells = lines[0].split("\t"), lines[row].split("\t")
    cells[names.index("question")] += " really"
    lines[row] = "\t".join(cells)
    stopped[3].write_text("\n".join(lines) + "\n")
    assert f"is of a search with data of the {split} split = " in refused(capsys, stopped)


def test_with_other_code(stopped, capsys, monkeypatch):
    monkeypatch.setattr(resuming, "_code", lambda: "another")
    assert "is of a search with vispco = " in refused(capsys, stopped)


def test_facts_name_all_that_matters(stopped):
    facts = json.loads((stopped[0] / "state" / "state.json").read_text())["facts"]
    assert facts.keys() >= {"vispco", "weights", "attention", "dtype", "prompt", "data of the search split", "selector",
                            "kernel", "cost", "torch", "transformers"}  # fmt: skip
