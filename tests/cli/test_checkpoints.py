"""A user's checkpoint, a folder or pinned on the hub, goes all the way; what cannot be opened is one line."""

import json
import shutil

import pytest
from hub import COMMIT, TAG, cached_repository
from refusing import one_line

import vispco
from vispco.cli import main
from vispco.embedded import MODELS
from vispco.engine import fingerprint, load_checkpoint

SMALL = [
    "search=step",
    "search.ladder=[0.5]",
    "baseline=none",
    "budget.values=[0.8]",
    "data.search_samples=4",
    "data.report_samples=4",
    "data.batch_size=4",
    "data.cache_gib=0.0",
    "tracker=none",
    "progress=false",
]


def points_of(run):
    return {(point.name, point.split): (point.model, point.quality, point.costs) for point in vispco.read_points(run)}


def test_a_folder_and_a_name_on_the_hub_are_the_same_model(tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(MODELS["micro-llava"], tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    cached_repository(monkeypatch, tmp_path / "cache", folder, "org/mine")
    places = {
        str(folder): [f"model.path={folder}"],
        f"org/mine@{COMMIT}": ["model.path=org/mine", f"model.revision={TAG}"],
    }
    runs = []
    for number, (name, settings) in enumerate(places.items()):
        run, best = tmp_path / f"run{number}", tmp_path / f"best{number}.json"
        assert main(["search", *SMALL, *settings, f"hydra.run.dir={run}"]) == 0
        assert main(["export", str(run), "--budget", "0.8", "-o", str(best)]) == 0
        assert json.loads(best.read_text())["model"]["name"] == name
        assert name in (run / "report.html").read_text()
        runs.append(points_of(run))
    assert runs[0] == runs[1]
    assert {model for model, _, _ in runs[0].values()} == {fingerprint(load_checkpoint("micro-llava")[0])}
    evaluation = ["data.report_samples=2", "data.batch_size=2", "model.path=org/mine"]
    assert main(["eval", str(best), *evaluation, f"model.revision={COMMIT}"]) == 0
    assert "unpruned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.path=org/mine"], "pin model.revision"),
        (["model.path=org/mine", "model.revision=v1"], "hf download org/mine --revision v1"),
        (["model.path=/nowhere/model"], "no checkpoint here"),
        (["model.revision=v1"], "micro-llava is a folder"),
        (["model.device_map=gpu"], "choose cpu, cuda"),
        (["model.attention=sdpa2"], "choose one of sdpa"),
        (["model.dtype=int3"], "choose one of float32"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(settings, words, tmp_path, monkeypatch, capsys):
    cached_repository(monkeypatch, tmp_path, MODELS["micro-llava"], "org/another")
    for verb in (["search", *SMALL, f"hydra.run.dir={tmp_path / 'run'}"], ["profile", "-o", str(tmp_path / "table")]):
        assert main([*verb, *settings]) == 2
        assert words in one_line(capsys)
    assert not (tmp_path / "table").exists()
