"""The stranger's path: its commands run on a folder and a table, and its page says what its results are."""

import importlib
import json
import re
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest

from vispco.cli import main
from vispco.data import load_samples

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "own_data"
SMALL = ["data.search_samples=8", "data.report_samples=8"]
QUICK = ["search.samples=8", "search.steps=1", "search.batch=2", "search.anchors=1", "search.probe_samples=2",
         "search.start_levels=2", "search.select_samples=2", "baseline=none",
         "tracker=none"]  # fmt: skip


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.own_data.study")


def test_the_table_has_no_splits(study, tmp_path):
    study.write_table(tmp_path / "table.tsv", 6)
    lines = (tmp_path / "table.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["index", "image", "question", "answer", "category"]
    assert len(lines) == 7
    shown = load_samples("shapes", "test", 6)
    assert [line.split("\t")[2:4] for line in lines[1:]] == [[each.question, each.answer] for each in shown]


def test_the_path_from_a_folder_and_a_table_to_scores(study, tmp_path, monkeypatch):
    def here(words, cwd, **_):
        more = {"search": QUICK, "compare": ["--wandb=none"]}.get(words[3], [])
        with chdir(cwd):
            assert main([*words[3:], *more]) == 0, words
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(study, "subprocess", SimpleNamespace(run=here, STDOUT=None))
    monkeypatch.setattr(study, "OUT", tmp_path / "results")
    arguments = ["study", "tiny", "--rows", "60", "--keep", str(tmp_path / "work"), "--sizes", *SMALL]
    monkeypatch.setattr("sys.argv", arguments)
    study.main()
    found = json.loads((tmp_path / "results" / "tiny.json").read_text())
    assert set(found["runs"]) == {"fastv", "visual_fastv"}
    assert found["runs"]["fastv"]["samples"] == 8
    rows = json.loads((FOLDER / "results" / "shapes.json").read_text())["eval"]["results"]
    assert found["eval"]["results"].keys() == rows.keys()


@pytest.mark.parametrize("name", ["shapes", "nlvr"])
def test_the_page_is_that_of_its_results(name):
    results = json.loads((FOLDER / "results" / f"{name}.json").read_text())["eval"]["results"]
    page = (FOLDER / "README.md").read_text()
    cells = re.findall(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", page)[name == "nlvr" :: 2]
    expected = ["{:.3f} [{:.3f}, {:.3f}]".format(*found["score"]) for found in results.values()]
    assert cells == expected
