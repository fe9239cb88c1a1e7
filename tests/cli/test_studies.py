"""Sampled searches from the command line: several selectors, studies that are resumed and shared."""

import json
import multiprocessing
import os
import signal
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

import vispco
from vispco.cli import finding, main
from vispco.search import open_storage

TINY = [
    "data.search_samples=16",
    "data.report_samples=16",
    "search.samples=12",
    "budget.values=[0.5,0.9]",
    "progress=false",
    "tracker=none",
]
forked = multiprocessing.get_context("fork")  # to import everything anew takes longer than the search


def searched(folder, method):
    return [point for point in vispco.read_points(folder) if point.split == "validation" and point.method == method]


def test_selectors_are_searched_with_the_schedule(tmp_path):
    """What is exported names the selector that it was measured with, on both splits, at that selector's cost."""
    folder = tmp_path / "a"
    options = ["search=tpe", "selector=random", "search.selectors=[fastv,mob]", "search.tune=[share,k]"]
    options += ["search.trials=14"]
    assert main(["search", *TINY, *options, f"hydra.run.dir={folder}"]) == 0
    points = searched(folder, "tpe")
    assert len(points) == 14
    assert {point.selector for point in points} == {"fastv", "mob"}
    for point in points:
        assert set(point.selector_params) == ({"share", "k"} if point.selector == "mob" else set())
    names = {point.name: point for point in points}
    reported = [point for point in vispco.read_points(folder) if point.split == "test" and point.method == "tpe"]
    for point in reported:
        twin = names[point.name]
        assert (point.selector, point.selector_params, point.keep) == (twin.selector, twin.selector_params, twin.keep)
    record = json.loads((folder / "frontier.json").read_text())
    assert record["configs"]
    for config in record["configs"]:
        (twin,) = [point for point in reported if list(point.keep) == config["keep"]]
        assert config["selector"] == twin.selector
        assert config["selector_params"] == twin.selector_params
        assert config["costs"]["flops"] <= config["budget"]
        saved = vispco.PruningConfig.load(folder / f"config-{config['budget']:g}.json")
        assert saved.selector == twin.selector
    assert "fastv + mob" in (folder / "report.html").read_text()


def test_several_selectors_are_checked_first(tmp_path, capsys):
    cases = {
        "search.selectors=[fastv,mop]": "mop",
        "search.tune=[beta]": "none of the selectors fastv, mob has a knob 'beta'",
        "selector.params={preset:strong}": "preset",
        f"search.storage={tmp_path}/no/study.log": "there is no folder",
    }
    common = ["search=tpe", "selector=mob", "search.selectors=[fastv,mob]", "search.tune=[share]", "search.trials=2"]
    for number, (option, words) in enumerate(cases.items()):
        arguments = [*TINY, *common, option, "model.path=/nowhere", f"hydra.run.dir={tmp_path}/{number}"]
        assert main(["search", *arguments]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line


def test_an_interrupted_search_goes_on_in_its_folder(tmp_path, monkeypatch):
    options = [*TINY, "search=tpe", "search.trials=6"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(["search", *options, "search.storage=null", f"hydra.run.dir={whole}"]) == 0
    assert not (whole / "study.log").exists()
    measure, calls = finding.measure, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    monkeypatch.setattr(finding, "measure", interrupted)
    assert main(["search", *options, f"hydra.run.dir={broken}"]) == 2
    assert main(["search", *options, f"hydra.run.dir={broken}"]) == 0
    assert len(calls) == 4 + 3, "what was measured is not measured again"
    first, second = (
        [point.model_dump(exclude={"name"}) for point in searched(folder, "tpe")] for folder in (whole, broken)
    )
    assert first == second
    records = [json.loads((folder / "frontier.json").read_text()) for folder in (whole, broken)]
    assert records[0]["indicators"] == records[1]["indicators"]


@pytest.mark.slow
def test_processes_share_a_study_and_one_is_killed(tmp_path, capsys):
    where = str(tmp_path / "study.log")
    options = [*TINY, "search=random", "search.trials=12", f"search.storage={where}", "search.study=both"]

    def start(name):
        process = forked.Process(
            target=lambda: sys.exit(main(["search", *options, f"hydra.run.dir={tmp_path / name}"]))
        )
        process.start()
        return process

    def trials():
        storage = open_storage(where)
        return (
            optuna.load_study(study_name="both", storage=storage).trials if optuna.get_all_study_names(storage) else []
        )

    victim, survivor = start("victim"), start("survivor")
    mine = None
    while mine is None:
        assert victim.is_alive(), "it ended before it could be killed"
        time.sleep(0.05)
        own = (trial for trial in trials() if trial.user_attrs.get("lease", {}).get("pid") == victim.pid)
        mine = next((trial.number for trial in own if trial.state == TrialState.RUNNING), None)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    survivor.join()
    assert (victim.exitcode, survivor.exitcode) == (-signal.SIGKILL, 0)

    ended = trials()
    assert [trial.state for trial in ended].count(TrialState.COMPLETE) == 12
    assert {trial.state for trial in ended} <= {TrialState.COMPLETE, TrialState.FAIL}
    names = [point.name for point in searched(tmp_path / "survivor", "random")]
    assert names == [f"random {trial.number}" for trial in ended if trial.state == TrialState.COMPLETE]

    assert main(["search", *options, f"hydra.run.dir={tmp_path / 'late'}"]) == 0
    assert searched(tmp_path / "late", "random") == searched(tmp_path / "survivor", "random")
    assert len(trials()) == len(ended)
    first, late = (json.loads((tmp_path / name / "frontier.json").read_text()) for name in ("survivor", "late"))
    assert late["indicators"] == first["indicators"]

    capsys.readouterr()
    assert main(["search", *options, "seed=1", f"hydra.run.dir={tmp_path / 'other'}"]) == 2
    line = capsys.readouterr().err.strip()
    assert "study 'both' has seed = 0, but this search has 1" in line
    assert "\n" not in line
