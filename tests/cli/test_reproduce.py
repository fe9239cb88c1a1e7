"""`vispco reproduce`: what was recorded is found again to the last bit, and whatever was changed since is named."""

import json
import shutil
from importlib import import_module
from types import SimpleNamespace

import pytest
from refusing import one_line
from safetensors.torch import load_file, save_file
from timing import in_proportion

from vispco.cli import main
from vispco.cli.agreement import Held
from vispco.embedded import locate, shapes
from vispco.engine import load_checkpoint
from vispco.engine.checkpoint import fingerprint
from vispco.profiling.calibration import calibrate_for

SMALL = [
    "data.search_samples=10", "data.report_samples=8", "data.batch_size=4", "data.cache_gib=0", "tracker=none",
    "progress=false",
]  # fmt: skip
LEARNED = [
    "search.samples=7", "search.steps=1", "search.batch=2", "search.anchors=1", "search.probe_samples=2",
    "search.start_levels=2", "search.select_samples=5", "budget.values=[0.5,0.9]",
]  # fmt: skip
BASELINES = (
    "baseline.methods=[{name: grid, ladder: [1.0, 0.1]}, {name: tpe, trials: 3, samples: 6, selectors: [fastv, mob], "
    "tune: [share, k]}]"
)
RUNS = {
    "learned": [*LEARNED, "search.per_sample=true", BASELINES],
    "knobs": [*LEARNED, "selector=balanced_fastv", "search.tune=[alpha]"],
    "sampled": [
        "search=tpe", "search.trials=6", "search.samples=6", "search.selectors=[mob,random]", "search.tune=[share,k]",
        "budget.values=[0.9]",
    ],
    "timed": [
        "search=step", "search.ladder=[0.3]", "data.scorer=exact_match", "cost=latency", "cost.clock=cpu",
        "cost.new_tokens=2", "budget.values=[0.9]",
    ],
}  # fmt: skip
"""Searches whose exported configurations differ in kind: trained, with trained knobs, of other selectors with sampled
knobs, of an official scorer under a budget of time."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a checkpoint, a table and a finished run of every kind."""
    where = tmp_path_factory.mktemp("reproduce")
    shutil.copytree(locate("micro-llava"), where / "model")
    for split in ("validation", "test"):
        shapes.write_tsv(where / split, split, 12)
    (where / "table.tsv").write_text(
        (where / "validation").read_text() + (where / "test").read_text().split("\n", 1)[1]
    )

    def times(*request, **options):
        return in_proportion(calibrate_for(*request, **{**options, "repeats": 1, "drift": 10.0}))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setattr(import_module("vispco.cli.profile"), "calibrate_for", times)
        for name in ("write_report", "plot_frontiers", "plot_schedules", "plot_costs"):
            patch.setattr(import_module("vispco.cli.search"), name, lambda *_, **__: None)
        for name, options in RUNS.items():
            things = [f"model.path={where / 'model'}", f"data.path={where / 'table.tsv'}"]
            assert main(["search", *SMALL, *things, *options, f"hydra.run.dir={where / name}"]) == 0
    return where


@pytest.fixture
def copy(place, tmp_path):
    """A copy of a run, to be changed."""

    def make(name):
        return shutil.copytree(place / name, tmp_path / name)

    return make


def change(path, field, value, where=lambda entry: True):
    """Change a field, by dotted name, of one entry of a file of JSON lines."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    (entry,) = [entry for entry in entries if where(entry)]
    *above, last = field.split(".")
    inner = entry
    for key in above:
        inner = inner[key]
    inner[last] = value(inner[last]) if callable(value) else value
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def exported(run):
    """The name of the verified point of the first exported configuration."""
    config = json.loads((run / "frontier.json").read_text())["configs"][0]
    points = [json.loads(line) for line in (run / "points.jsonl").read_text().splitlines()]
    (point,) = [
        point for point in points
        if point["split"] == "test" and point["method"] != "control" and point["keep"] == config["keep"]
        and point["selector"] == config["selector"] and point["selector_params"] == config["selector_params"]
    ][:1]  # fmt: skip
    return point["name"]


def reported(name):
    return lambda point: (point["split"], point["name"]) == ("test", name)


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_is_found_again_to_the_last_bit(place, tmp_path, name, capsys):
    assert main(["reproduce", str(place / name), "--all", "-o", str(tmp_path / "again.json")]) == 0
    record = json.loads((tmp_path / "again.json").read_text())
    assert (record["agrees"], record["exact"]) == (True, True)
    assert all(number["then"] == number["now"] and number["allowed"] == 0 for number in record["numbers"])
    points = [json.loads(line) for line in (place / name / "points.jsonl").read_text().splitlines()]
    verified = {point["name"] for point in points if point["split"] == "test"}
    files = {path.name for path in (place / name).glob("config-*.json")}
    held = {number["record"] for number in record["numbers"]}
    assert held | set(record["left_out"]) == verified | files
    assert all("per sample" in left for left in record["left_out"])
    assert bool(record["left_out"]) == (name == "learned")
    fields = {number["field"] for number in record["numbers"] if number["record"] in files}
    costs = {"costs.flops", "costs.decode_flops", "costs.kv", "costs.peak"}
    costs |= {"costs.latency", "costs.generation"} if name == "timed" else set()
    assert fields == {"quality.kl", "quality.score"} | costs
    assert "to the last bit" in capsys.readouterr().out


def test_the_kinds_are_what_they_are_meant_to_be(place):
    """Else the test above would not be about knobs and other selectors."""
    configs = {name: json.loads((place / name / "frontier.json").read_text())["configs"] for name in RUNS}
    assert "alpha" in configs["knobs"][0]["selector_params"]
    assert configs["sampled"][0]["selector"] in ("mob", "random")
    assert "latency" in configs["timed"][0]["costs"]
    points = [json.loads(line) for line in (place / "learned" / "points.jsonl").read_text().splitlines()]
    controls = {point["name"].split(" b=")[0] for point in points if point["method"] == "control"}
    assert {"random", "uniform_grid", "downsampled"} <= controls


def test_what_was_exported_is_enough_if_nothing_is_said(place, tmp_path):
    assert main(["reproduce", str(place / "timed"), "-o", str(tmp_path / "again.json")]) == 0
    record = json.loads((tmp_path / "again.json").read_text())
    assert {number["record"] for number in record["numbers"]} == {"config-0.9.json", exported(place / "timed")}


@pytest.mark.parametrize(
    ("field", "by"), [("quality.score", 0.125), ("quality.kl", 1e-9), ("costs.flops", 1e-9), ("slices.color", -0.5)]
)
def test_a_changed_point_is_found_and_named(copy, tmp_path, capsys, field, by):
    run = copy("learned")
    name = exported(run)
    if field.startswith("slices"):
        first = next(json.loads(line) for line in (run / "points.jsonl").open() if reported(name)(json.loads(line)))
        field = f"slices.{next(iter(first['slices']))}"
    change(run / "points.jsonl", field, lambda value: value + by, reported(name))
    assert main(["reproduce", str(run), "-o", str(tmp_path / "again.json")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert f"the first is {field} of {name!r}" in said[-1]
    assert any(line.startswith(f"{name}: {field} ") and "off by" in line for line in said)
    assert "environment: nothing differs" in said
    record = json.loads((tmp_path / "again.json").read_text())
    (wrong,) = [number for number in record["numbers"] if not number["agrees"]]
    assert (wrong["record"], wrong["field"]) == (name, field)
    assert wrong["difference"] == pytest.approx(abs(by), abs=1e-12)
    assert record["agrees"] is False


@pytest.mark.parametrize("field", ["quality.score", "quality.kl", "costs.kv"])
def test_a_changed_configuration_is_found_and_named(copy, capsys, field):
    run = copy("sampled")
    part, key = field.split(".")
    config = json.loads((run / "config-0.9.json").read_text())
    config[part][key] += 0.01
    (run / "config-0.9.json").write_text(json.dumps(config))
    assert main(["reproduce", str(run)]) == 1
    assert f"the first is {field} of 'config-0.9.json'" in capsys.readouterr().err


def test_a_changed_copy_in_the_frontier_is_found(copy, capsys):
    """`vispco export` reads that copy."""
    run = copy("sampled")
    record = json.loads((run / "frontier.json").read_text())
    record["configs"][0]["quality"]["kl"] += 0.01
    (run / "frontier.json").write_text(json.dumps(record))
    assert main(["reproduce", str(run)]) == 1
    assert "the first is quality.kl of 'frontier.json, config-0.9.json'" in capsys.readouterr().err


def test_a_changed_schedule_has_no_verified_point(copy, capsys):
    run = copy("timed")
    point = exported(run)
    change(run / "points.jsonl", "keep", lambda keep: [*keep[:-1], keep[-1] / 2], reported(point))
    assert main(["reproduce", str(run)]) == 1
    assert "the first is verified point of 'config-0.9.json': missing in the record" in capsys.readouterr().err


def test_other_weights_are_refused_before_anything_is_measured(place, tmp_path, capsys):
    other = shutil.copytree(place / "model", tmp_path / "model")
    (file,) = other.glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] *= 1.01
    save_file(weights, file, {"format": "pt"})
    then, now = (fingerprint(load_checkpoint(str(path))[0]) for path in (place / "model", other))
    capsys.readouterr()
    assert main(["reproduce", str(place / "timed"), f"model.path={other}"]) == 2
    line = one_line(capsys)
    assert f"is {then!r} in the record and {now!r} here; give the checkpoint of then with model.path=" in line
    assert line.startswith(f"vispco: {place / 'timed'}: model of ")


def test_a_weight_that_the_fingerprint_passes_over_shows_in_the_numbers(place, tmp_path, capsys):
    other = shutil.copytree(place / "model", tmp_path / "model")
    (file,) = other.glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("layers.0.self_attn.v_proj.weight") and "language" in name)
    flat = weights[name].flatten()
    assert len(flat) > 128, "the fingerprint takes the first value of every step"
    flat[1] += 1.0
    weights[name] = flat.reshape(weights[name].shape)
    save_file(weights, file, {"format": "pt"})
    assert main(["reproduce", str(place / "timed"), f"model.path={other}"]) == 1
    assert "quality.kl of 'config-0.9.json'" in capsys.readouterr().err


@pytest.mark.parametrize(("split", "whose"), [("test", "test split"), ("validation", "validation split")])
def test_other_data_is_refused_before_anything_is_measured(place, tmp_path, capsys, monkeypatch, split, whose):
    """One answer is another one, of either split."""
    head, *rows = (place / "table.tsv").read_text().splitlines()
    columns = head.split("\t")
    answer, kind = columns.index("answer"), columns.index("split")
    cells = [row.split("\t") for row in rows]
    row = next(row for row in cells if row[kind] == split and row[answer] in ("yes", "no", "red", "blue", "green"))
    row[answer] = "two"
    table = tmp_path / "table.tsv"
    table.write_text("\n".join([head, *map("\t".join, cells)]) + "\n")
    monkeypatch.setattr(import_module("vispco.cli.repeating"), "measure", lambda *_, **__: pytest.fail("too late"))
    assert main(["reproduce", str(place / "timed"), f"data.path={table}"]) == 2
    line = one_line(capsys)
    assert f"({whose}) is '" in line
    assert "data of " in line
    assert "give the samples of then with data.path=" in line


def test_other_prompt(copy, capsys):
    run = copy("timed")
    text = (run / "config.yaml").read_text()
    assert "prompt: '{question}'" in text
    (run / "config.yaml").write_text(text.replace("prompt: '{question}'", "prompt: '{question} ?'"))
    assert main(["reproduce", str(run)]) == 2
    assert "prompt of " in one_line(capsys)


def test_elsewhere_numbers_may_round_differently_but_no_more(copy, tmp_path, capsys):
    """Of another release than the run: KL within 1e-4, score within one sample, costs as they are."""
    run = copy("learned")
    name = exported(run)
    record = json.loads((run / "environment.json").read_text())
    record["starts"][0]["packages"]["torch"] = "0.1"
    (run / "environment.json").write_text(json.dumps(record))
    change(run / "points.jsonl", "quality.kl", lambda kl: kl + 9e-5, reported(name))
    change(
        run / "points.jsonl", "quality.score", lambda score: score + (0.125 if score < 0.9 else -0.125), reported(name)
    )
    assert main(["reproduce", str(run), "-o", str(tmp_path / "again.json")]) == 0
    assert "kl within 0.0001, score within 0.125: machine or releases are others" in capsys.readouterr().out
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["environment"]["differences"].keys() == {"packages.torch"}
    assert (again["agrees"], again["exact"]) == (True, False)

    change(run / "points.jsonl", "quality.kl", lambda kl: kl + 9e-5, reported(name))
    assert main(["reproduce", str(run)]) == 1
    said = capsys.readouterr().err
    assert f"{name}: quality.kl" in said
    assert "environment: packages.torch was '0.1', is '" in said


def test_a_run_that_has_not_recorded_its_environment(copy, capsys):
    run = copy("timed")
    (run / "environment.json").unlink()
    change(run / "points.jsonl", "costs.kv", lambda cost: cost + 1e-12, reported(exported(run)))
    assert main(["reproduce", str(run)]) == 1
    said = capsys.readouterr().err
    assert "costs.kv of" in said, "costs are exact everywhere"
    assert "environment: the run has not recorded its own" in said


def test_times_are_left_out_where_their_table_is_gone(copy, capsys):
    run = copy("timed")
    (run / "latency.json").unlink()
    assert main(["reproduce", str(run)]) == 0
    assert (
        "costs in time: left out, the table of times that they were predicted from is not there"
        in capsys.readouterr().out
    )


def test_a_run_that_has_moved(place, tmp_path, monkeypatch, capsys):
    """Model and table are elsewhere; settings that would make it another run are refused."""
    run = shutil.copytree(place / "timed", tmp_path / "timed")
    shutil.copytree(place / "model", tmp_path / "elsewhere")
    shutil.copy(place / "table.tsv", tmp_path / "moved.tsv")
    text = (run / "config.yaml").read_text().replace(str(place), "/gone")
    (run / "config.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "timed"]) == 2
    assert "/gone" in one_line(capsys)
    assert main(["reproduce", "timed", "model.path=elsewhere", "data.path=moved.tsv"]) == 0
    capsys.readouterr()
    for word in ("seed=1", "data.report_samples=4", "surprise"):
        assert main(["reproduce", "timed", word]) == 2
        assert f"override {word!r} would make another run of it" in one_line(capsys)


@pytest.mark.parametrize("missing", ["frontier.json", "config.yaml", "points.jsonl", "config-0.9.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe"])
def test_missing_and_damaged_files_are_refused_in_one_line(copy, monkeypatch, capsys, missing, content):
    run = copy("timed")
    (run / missing).unlink()
    if content is not None:
        (run / missing).write_bytes(content)
    monkeypatch.setattr(import_module("vispco.cli.repeating"), "open_model", lambda *_: pytest.fail("too late"))
    assert main(["reproduce", str(run)]) == 2
    assert missing in one_line(capsys)


def test_a_place_that_cannot_be_written_is_refused_first(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(import_module("vispco.cli.repeating"), "open_model", lambda *_: pytest.fail("too late"))
    assert main(["reproduce", str(place / "timed"), "-o", str(tmp_path)]) == 2
    assert "cannot be written" in one_line(capsys)


def test_a_search_says_how_it_was_started(place):
    (start,) = json.loads((place / "timed" / "environment.json").read_text())["starts"]
    assert start["command"][0] == "vispco search"
    assert f"hydra.run.dir={place / 'timed'}" in start["command"]


def test_names_in_what_is_printed_are_text(capsys):
    module = import_module("vispco.cli.reproduce")
    run = SimpleNamespace(settings=SimpleNamespace(cost=SimpleNamespace(name="flops")), environments=[])
    found = [Held("[/a]\x1b[2J", "slices.[/b]", 1.0, 2.0, 0.0)]
    module._print(run, found, {"[/c]": "of [/d]"}, exact=True)
    module._explain(found, run, {"[/e]": ("\x1b", "[/f]")})
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert all(f"[/{letter}]" in said.out for letter in "abcd")
    assert all(f"[/{letter}]" in said.err for letter in "abef")
