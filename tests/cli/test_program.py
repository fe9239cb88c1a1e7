"""The program from checkpoint to verified frontier and exported JSON, on the embedded default made small."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from offline import read_offline

import vispco
from vispco.cli import main
from vispco.cost import count_flops
from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import prompt_text

TINY = [
    "data.search_samples=24",
    "data.report_samples=24",
    "search.steps=4",
    "search.batch=2",
    "search.anchors=4",
    "search.samples=20",
    "search.start_levels=5",
    "search.probe_samples=8",
    "search.select_samples=16",
    "budget.values=[0.4,0.6,0.9]",
    "progress=false",
]
BASELINES = "baseline.methods=[{name: grid, ladder: [1.0, 0.3, 0.05]}, {name: step, ladder: [0.5, 0.1]}]"


def drawn(report):
    """What a report draws from."""
    (text,) = re.findall('id="payload">(.*?)</script>', report.read_text(), re.DOTALL)
    return json.loads(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with baselines and the W&B tracker."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    assert main(["search", *TINY, BASELINES, "tracker=wandb", f"hydra.run.dir={folder}"]) == 0
    return folder


def test_the_folder_holds_everything(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "points.jsonl", "frontier.json", "frontier.png", "schedules.png", "report.html"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["budget"]["values"] == [0.4, 0.6, 0.9]
    assert config["selector"]["name"] == "fastv"
    assert (run / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_points_of_both_splits_and_all_methods(run):
    points = vispco.read_points(run)
    assert {point.split for point in points} == {"validation", "test"}
    methods = {point.method for point in points if point.split == "test"}
    assert methods == {"learned", "grid", "step", "control", "unpruned"}
    assert sum(point.method == "grid" and point.split == "validation" for point in points) == 36
    controls = {point.name.split(" b=")[0] for point in points if point.method == "control"}
    assert controls == {"random", "uniform_grid", "downsampled", "fastv default (layer 2, 50 %)"}
    default = next(point for point in points if point.name.startswith("fastv default"))
    assert default.keep == (1.0, 1.0, *[0.5] * 6)


def test_every_configuration_is_within_its_budget(run):
    """Exact FLOPs counted again, sample by sample, from the configuration of the checkpoint."""
    model, processor = load_checkpoint("micro-llava")
    samples = load_samples("shapes", "test", 24)
    texts = [prompt_text(processor, sample.question) for sample in samples]
    tokens = [
        processor(text=[t], images=[[s.image]], return_tensors="pt")["input_ids"].shape[1]
        for t, s in zip(texts, samples, strict=True)
    ]
    record = json.loads((run / "frontier.json").read_text())
    assert len(record["configs"]) == 3
    for entry in record["configs"]:
        reports = [count_flops(model.config, n - 100, 100, entry["keep"], selection=1) for n in tokens]
        ratio = sum(report.total for report in reports) / sum(report.unpruned for report in reports)
        assert ratio == pytest.approx(entry["costs"]["flops"], abs=0.002)
        assert entry["costs"]["flops"] <= entry["budget"]


def test_the_frontier_is_of_the_report_split_and_chosen_by_the_other(run):
    record = json.loads((run / "frontier.json").read_text())
    assert {point["split"] for point in record["front"]} == {"test"}
    by_name = {point.name: point for point in vispco.read_points(run) if point.split == "test"}
    for entry in record["configs"]:
        point = by_name[f"learned b={entry['budget']:g}"]
        assert entry["quality"]["score"] == point.quality["score"]
        assert entry["provenance"]["search_split"] == "validation"
    indicators = record["indicators"]
    assert 0 < indicators["learned hypervolume"] < 1
    ratio = indicators["learned hypervolume"] / indicators["grid hypervolume"]
    assert indicators["hypervolume ratio to grid"] == pytest.approx(ratio)
    assert set(record["regret"]) == {"0.4", "0.6", "0.9"}


def test_controls_have_no_say_in_the_reference(run):
    """Some controls score lower than every searched schedule, and would raise all hypervolumes alike."""
    points = [point for point in vispco.read_points(run) if point.split == "test"]
    searched = [point for point in points if point.method != "control"]
    floor = min(point.quality["score"] for point in searched)
    assert min(point.quality["score"] for point in points) < floor
    learned = [point for point in points if point.method in ("learned", "unpruned")]
    said = json.loads((run / "frontier.json").read_text())["indicators"]["learned hypervolume above lowest"]
    assert said == pytest.approx(vispco.hypervolume(learned, reference=(1.0, floor)))


def test_the_regret_is_the_paired_difference_of_scores(run):
    record = json.loads((run / "frontier.json").read_text())
    points = [point for point in vispco.read_points(run) if point.split == "validation"]
    reported = {point.name: point for point in vispco.read_points(run) if point.split == "test"}
    grid = [point for point in points if point.method == "grid" and point.costs["flops"] <= 0.6]
    rival = min(grid, key=lambda point: (point.quality["kl"], point.costs["flops"]))
    expected = reported[rival.name].quality["score"] - reported["learned b=0.6"].quality["score"]
    assert record["regret"]["0.6"]["value"] == pytest.approx(expected)
    assert record["regret"]["0.6"]["low"] <= expected <= record["regret"]["0.6"]["high"]


def test_the_report_stands_alone(run):
    html = (run / "report.html").read_text()
    assert 'src="http' not in html
    assert 'href="http' not in html
    for text in ("learned", "0.4", "data:image/"):
        assert text in html


def test_the_report_draws_from_what_was_measured(run):
    shown = drawn(run / "report.html")
    points = {point.name: point for point in vispco.read_points(run) if point.split == "test"}
    assert {point["name"] for point in shown["points"]} == set(points)
    unpruned = shown["points"][shown["unpruned"]]
    assert unpruned["quality"] == points["unpruned"].quality
    assert [value for value, _, _ in shown["slices"]["unpruned"]][1:] == pytest.approx(
        [points["unpruned"].slices[name] for name, _ in shown["slices"]["rows"][1:]]
    )
    change = shown["slices"]["bars"]["learned b=0.6"]["changes"][0]
    expected = points["learned b=0.6"].quality["score"] - points["unpruned"].quality["score"]
    assert change[0] == pytest.approx(expected)
    assert {name: len(curve) for name, curve in shown["convergence"]["curves"].items()} == {
        "loss": 4, "violation": 4, "multiplier": 4,
    }  # fmt: skip
    assert {(picture["rows"], picture["columns"]) for picture in shown["pictures"]} == {(10, 10)}


def test_every_method_is_an_offline_run_of_one_group(run):
    main_run, grid, step = read_offline(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    record = json.loads((run / "frontier.json").read_text())
    points = [point for point in vispco.read_points(run) if point.split == "test"]
    assert {key: main_run.config[key] for key in config} == config
    curves = [entry for entry in main_run.history if "multiplier" in entry]
    assert [entry["step"] for entry in curves] == [0, 1, 2, 3]
    assert all({"loss", "violation"} < set(entry) for entry in curves)
    assert record["indicators"].items() <= main_run.summary.items()
    assert {name: json.loads(text) for name, text in main_run.files("pareto-config").items() if "config-" in name} == {
        f"config-{entry['budget']:g}.json": entry for entry in record["configs"]
    }
    files = {"points.jsonl", "frontier.json", "frontier.png", "report.html"}
    assert {name: (run / name).read_bytes() for name in files}.items() <= main_run.files("pareto-config").items()
    shown = {"learned": (main_run, "search"), "grid": (grid, "baseline"), "step": (step, "baseline")}
    for method, (each, kind) in shown.items():
        assert (each.run.run_group, each.run.job_type, each.run.display_name) == (
            run.name, kind, f"{run.name} {method} seed 0",
        )  # fmt: skip
        extra = {"control"} if kind == "search" else set()
        columns, rows = each.table("points")
        told = [dict(zip(columns, row, strict=True)) for row in rows]
        expected = [point for point in points if point.method in {method, "unpruned", *extra}]
        assert [row["name"] for row in told] == [point.name for point in expected]
        assert [(row["flops"], row["score"]) for row in told] == [
            (pytest.approx(point.costs["flops"]), pytest.approx(point.quality["score"])) for point in expected
        ]
        assert each.summary["hypervolume"] == record["indicators"][f"{method} hypervolume"]
        assert each.summary["forwards"] == record["indicators"][f"{method} forwards"]
        assert each.summary["unpruned score"] == record["indicators"]["unpruned score"]
        assert "points" not in each.summary  # no scalar in the place of the table's reference
        assert each.summary["verified points"] == sum(point.method == method for point in points)
    assert grid.table("points")[0] == main_run.table("points")[0] == step.table("points")[0]


def test_the_score_at_a_budget_is_of_what_the_search_split_chose(run):
    """The best score of the report split within the budget would be too good."""
    main_run, grid, _ = read_offline(run)
    points = vispco.read_points(run)
    reported = {point.name: point.quality["score"] for point in points if point.split == "test"}
    tried = [point for point in points if point.split == "validation" and point.method == "grid"]
    for budget in (0.4, 0.6, 0.9):
        allowed = [point for point in tried if point.costs["flops"] <= budget]
        chosen = min(allowed, key=lambda point: (point.quality["kl"], point.costs["flops"]))
        assert grid.summary[f"score@{budget:g}"] == reported[chosen.name]
        assert main_run.summary[f"score@{budget:g}"] == reported[f"learned b={budget:g}"]


def test_no_tracker_writes_nothing_and_the_seed_decides(tmp_path):
    options = [*TINY, "tracker=none"]
    for name in ("a", "b"):
        assert main(["search", *options, f"hydra.run.dir={tmp_path / name}"]) == 0
    assert not (tmp_path / "a" / "wandb").exists()
    first, second = (json.loads((tmp_path / name / "frontier.json").read_text()) for name in ("a", "b"))
    assert [c["keep"] for c in first["configs"]] == [c["keep"] for c in second["configs"]]
    assert first["indicators"] == second["indicators"]


@pytest.mark.parametrize("search", ["tpe", "random", "nsga2"])
def test_knobs_are_searched_with_the_schedule(search, tmp_path):
    """What is exported has the knob that it was measured with, on both splits."""
    sizes = [option for option in TINY if not option.startswith("search.")]
    options = [
        f"search={search}",
        "selector=balanced_fastv",
        "search.tune=[alpha]",
        "search.trials=8",
        "search.samples=12",
    ]
    folder = tmp_path / "a"
    assert main(["search", *sizes, "tracker=none", *options, f"hydra.run.dir={folder}"]) == 0
    points = vispco.read_points(folder)
    tried = [point.selector_params["alpha"] for point in points if point.split == "validation"]
    assert len(tried) == 8 == len(set(tried))
    assert all(0 <= alpha <= 1 for alpha in tried)
    searched = {point.name: point for point in points if point.split == "validation"}
    for config in json.loads((folder / "frontier.json").read_text())["configs"]:
        twins = [point for point in points if point.split == "test" and list(point.keep) == config["keep"]]
        twins = [point for point in twins if point.method == search]
        assert [point.selector_params for point in twins] == [config["selector_params"]]
        assert searched[twins[0].name].selector_params == config["selector_params"]
        assert config["costs"]["flops"] <= config["budget"]


def test_a_learned_knob_is_exported(tmp_path):
    folder = tmp_path / "a"
    options = ["selector=balanced_fastv", "search.tune=[alpha]", "search.knob_lr=0.3"]
    assert main(["search", *TINY, "tracker=none", *options, f"hydra.run.dir={folder}"]) == 0
    configs = json.loads((folder / "frontier.json").read_text())["configs"]
    assert all(set(config["selector_params"]) == {"alpha"} for config in configs)
    assert any(abs(config["selector_params"]["alpha"] - 0.5) > 0.01 for config in configs)
    learned = {point.budget: point for point in vispco.read_points(folder) if point.method == "learned"}
    for config in configs:
        assert learned[config["budget"]].selector_params == config["selector_params"]


def test_multirun_makes_one_folder_per_job(tmp_path):
    options = [*TINY, "tracker=wandb", "search=step", "search.ladder=[0.5,0.1]"]
    options = [option for option in options if not option.startswith("search.") or "ladder" in option]
    sweep = ["selector=fastv,random", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert main(["search", "--multirun", *options, *sweep]) == 0
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["0", "1"]
    selectors = [yaml.safe_load((folder / "config.yaml").read_text())["selector"]["name"] for folder in folders]
    assert selectors == ["fastv", "random"]
    assert [each.run.run_group for folder in folders for each in read_offline(folder)] == ["sweep", "sweep"]
    for folder in folders:  # a folder can be moved, and uploaded, without the others
        (each,) = read_offline(folder)
        assert all(entry.local_path.startswith(str(folder)) for a in each.artifacts for entry in a.manifest.contents)
    check_comparison(folders, tmp_path)
    assert main(["compare", *map(str, folders), "-o", str(tmp_path / "both.html")]) == 0
    labels = [group["label"] for group in drawn(tmp_path / "both.html")["groups"]]
    assert {f"{folder}: single-cut grid" for folder in folders} <= set(labels)
    assert "hypervolume" in (tmp_path / "both.html").read_text()


def check_comparison(folders, place):
    """Two runs of one method are two lines, in the plot and in a W&B run that holds the points of both."""
    assert main(["compare", *map(str, folders), "-o", str(place / "both.svg"), "--group", "sweep"]) == 0
    labels = [f"step, {folder.name}" for folder in folders]
    assert all(label in (place / "both.svg").read_text() for label in labels)
    (each,) = read_offline(place)
    assert (each.run.job_type, each.run.run_group) == ("compare", "sweep")
    columns, rows = each.table("points")
    told = [(str(folder), p.name) for folder in folders for p in vispco.read_points(folder) if p.split == "test"]
    assert [(row[0], row[columns.index("name")]) for row in rows] == told
    _, lines = each.table("frontiers_table")
    assert {key for _, key, _ in lines} == {f"{f}: {m}" for f in folders for m in ("step", "unpruned", "control")}
    for folder in folders:
        points = [point for point in vispco.read_points(folder) if point.split == "test" and point.method == "step"]
        assert each.summary[f"{folder}: step hypervolume"] == pytest.approx(vispco.hypervolume(points))
    assert main(["compare", *map(str, folders), "-o", str(place / "other.png"), "--wandb", "none"]) == 0
    assert (place / "other.png").stat().st_size > 10_000
    assert len(read_offline(place)) == 1


def test_export_and_use(run, tmp_path, capsys):
    target = tmp_path / "best.json"
    assert main(["export", str(run), "--budget", "0.6", "-o", str(target)]) == 0
    config = vispco.PruningConfig.load(target)
    assert config.budget == 0.6
    assert config.costs["flops"] <= 0.6
    record = json.loads((run / "frontier.json").read_text())
    allowed = [entry for entry in record["configs"] if entry["costs"]["flops"] <= 0.6]
    assert config.quality["kl"] == min(entry["quality"]["kl"] for entry in allowed)
    model, processor = load_checkpoint("micro-llava")
    sample = load_samples("shapes", "test", 1)[0]
    inputs = processor(text=prompt_text(processor, sample.question), images=sample.image, return_tensors="pt")
    with vispco.prune(model, config) as pruned:
        out = model.generate(**inputs)
    assert out.shape[1] > inputs["input_ids"].shape[1]
    expected = [max(1, int(np.floor(ratio * 100 + 0.5))) for ratio in config.keep]
    assert pruned.kept_counts.flatten().tolist() == expected
    assert torch.equal(out[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    capsys.readouterr()
    assert main(["eval", str(target), "data.report_samples=16"]) == 0
    assert "control: random" in capsys.readouterr().out


def one_line(capsys):
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


BAD_SEARCHES = {
    "unknown selector": (["selector.name=fastw"], ["fastw", "fastv, fitprune"]),
    "unknown group": (["selector=fastw"], ["fastw", "fastv"]),
    "unknown key": (["search.stepz=3"], ["stepz"]),
    "wrong type": (["search.steps=many"], ["search", "steps", "many"]),
    "budget below text only": (["budget.values=[0.01]"], ["0.01", "cannot be reached", "to 1.000"]),
    "budget above one": (["budget.values=[1.5]"], ["budget.values", "1.5"]),
    "same split twice": (["data.report_split=validation"], ["validation"]),
    "unknown split": (["data.report_split=tset"], ["tset", "train, validation, test"]),
    "no such data": (["data.path=/nowhere/x.tsv"], ["/nowhere/x.tsv"]),
    "no such checkpoint": (["model.path=/nowhere"], ["/nowhere", "config.json"]),
    "unknown cost": (["cost.name=watts"], ["watts", "flops"]),
    "unknown kernel": (["kernel.name=cosine"], ["cosine", "step, linear", "multistep, free"]),
    "too many steps": (["kernel.steps=9"], ["kernel.steps = 9", "1..7"]),
    "unknown dtype": (["model.dtype=int3"], ["int3", "float32"]),
    "selector that cannot rank": (["selector=mob"], ["MoB chooses another set for another count", "search=grid"]),
    "selector parameter": (["+selector.params.alpha=1"], ["alpha"]),
    "knob to learn": (["search.tune=[alpha]"], ["FastV has no knob 'alpha' to tune"]),
    "knob without gradient": (["selector=window_fastv", "search.tune=[window]"], ["'window'", "search=tpe"]),
    "knob to sample": (
        ["baseline.methods=[{name: tpe, trials: 2, samples: 8, tune: [beta]}]"],
        ["FastV has no knob 'beta' to tune"],
    ),
}


@pytest.mark.parametrize("case", BAD_SEARCHES)
def test_bad_input_is_one_line_and_exit_code_two(case, tmp_path, capsys):
    overrides, words = BAD_SEARCHES[case]
    assert main(["search", *TINY, "tracker=none", f"hydra.run.dir={tmp_path / 'x'}", *overrides]) == 2
    line = one_line(capsys)
    assert all(word in line for word in words), line
    assert not (tmp_path / "x" / "points.jsonl").exists()


def test_a_ladder_that_reaches_no_budget(tmp_path, capsys):
    options = [option for option in TINY if not option.startswith(("search.", "budget."))]
    ladder = ["search=step", "search.ladder=[0.9]", "budget.values=[0.3]", "tracker=none"]
    assert main(["search", *options, *ladder, f"hydra.run.dir={tmp_path / 'x'}"]) == 2
    line = one_line(capsys)
    assert "search=step" in line
    assert "[0.3]" in line


def test_a_checkpoint_that_is_no_vision_language_model(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert main(["search", *TINY, "tracker=none", f"model.path={tmp_path}", f"hydra.run.dir={tmp_path / 'x'}"]) == 2
    assert "'bert' is not supported" in one_line(capsys)


def test_run_folders_that_cannot_be_used(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["search", *TINY, "tracker=none", f"hydra.run.dir={tmp_path / 'file' / 'x'}"]) == 2
    assert "hydra.run.dir" in one_line(capsys)
    before = (run / "points.jsonl").read_bytes()
    assert main(["search", *TINY, "tracker=none", f"hydra.run.dir={run}"]) == 2
    assert "holds a run already" in one_line(capsys)
    assert (run / "points.jsonl").read_bytes() == before


def test_bad_configuration_files(run, tmp_path, capsys):
    target = tmp_path / "best.json"
    assert main(["export", str(run), "--budget", "0.9", "-o", str(target)]) == 0
    text = target.read_text()
    capsys.readouterr()
    cases = {
        "truncated.json": (text[: len(text) // 2], "not valid JSON"),
        "short.json": (json.dumps({**json.loads(text), "keep": [1.0] * 7}), "7 ratios"),
        "other.json": (json.dumps({**json.loads(text), "selector": "fastw"}), "fastw"),
        "version.json": (json.dumps({**json.loads(text), "schema_version": "2.0"}), "2.0"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_text(content)
        assert main(["eval", str(tmp_path / name), "data.report_samples=8"]) == 2
        assert words in one_line(capsys)
    assert main(["eval", str(tmp_path / "none.json")]) == 2
    assert "none.json" in one_line(capsys)
    assert main(["eval"]) == 2
    assert "vispco eval --help" in one_line(capsys)


def test_bad_exports(run, tmp_path, capsys):
    target = str(tmp_path / "best.json")
    assert main(["export", str(run), "--budget", "0.01", "-o", target]) == 2
    assert "choose one in" in one_line(capsys)
    assert main(["export", str(tmp_path), "--budget", "0.5", "-o", target]) == 2
    assert "frontier.json" in one_line(capsys)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "frontier.json").write_text((run / "frontier.json").read_text()[:100])
    assert main(["export", str(broken), "--budget", "0.5", "-o", target]) == 2
    assert "not valid JSON" in one_line(capsys)
    assert main(["export", str(run), "--budget", "0.9", "-o", str(tmp_path / "no" / "best.json")]) == 2
    assert "cannot be written" in one_line(capsys)
    assert not Path(target).exists()


def test_verbs(capsys):
    assert main([]) == 0
    assert "vispco search" in capsys.readouterr().out
    assert main(["serch"]) == 2
    assert "search, compare, export, reproduce, eval" in one_line(capsys)


def test_the_console_script_runs_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-c", "import sys; from vispco.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "search", "budget.values=[0.01]", *TINY[:9], "progress=false", "tracker=none",
         f"hydra.run.dir={tmp_path / 'x'}"],
        capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("vispco: budget 0.01 of flops cannot be reached")
