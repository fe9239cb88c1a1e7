"""What a run was made with: all of it, nothing secret, and never a failure."""

import json
import platform
import shutil
import subprocess

import numpy as np
import pytest
import torch

import vispco
from vispco.runs import RunFolder, environment, environment_differences, read_environments, record_environment
from vispco.runs.environment import FILE, VARIABLES

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def repository(tmp_path):
    """A repository of one commit, with a file that is tracked; gives its path and the commit."""
    place = tmp_path / "repository"
    place.mkdir()
    (place / "tracked.py").write_text("1")

    def git(*words):
        own = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *own, *words], cwd=place, capture_output=True, text=True, check=True).stdout

    git("init")
    git("add", "tracked.py")
    git("commit", "-m", "a")
    return place, git("rev-parse", "HEAD").strip()


def test_releases_and_machine(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    found = environment()
    assert found["vispco"] == vispco.__version__
    assert found["python"].endswith(platform.python_version())
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert {"transformers", "optuna", "tokenizers", "pillow"} <= found["packages"].keys()
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["cpu"]["model"]
    assert found["variables"].keys() == set(VARIABLES)
    assert (found["variables"]["PYTHONHASHSEED"], found["variables"]["MKL_CBWR"]) == ("7", None)
    json.dumps(found, allow_nan=False)


def test_nothing_secret_is_recorded(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    monkeypatch.setattr("sys.argv", ["vispco search", "search.storage=postgresql://me:very-secret@host/db", "seed=3"])
    found = environment()
    assert "very-secret" not in json.dumps(found)
    assert found["command"] == ["vispco search", "search.storage=postgresql://me:***@host/db", "seed=3"]


@needs_git
def test_the_repository_that_the_process_is_in(repository, monkeypatch):
    place, commit = repository
    monkeypatch.chdir(place)
    (place / "untracked.txt").write_text("a run folder, say")
    assert environment()["git"]["here"] == {"commit": commit, "dirty": False}
    (place / "tracked.py").write_text("2")
    assert environment()["git"]["here"] == {"commit": commit, "dirty": True}


@needs_git
def test_the_checkout_of_vispco(repository, monkeypatch):
    """One repository is recorded once; a package that lies in a repository untracked is not of it."""
    place, commit = repository
    monkeypatch.chdir(place)
    monkeypatch.setattr(vispco, "__file__", str(place / "tracked.py"))
    assert environment()["git"] == {"vispco": {"commit": commit, "dirty": False}, "here": None}
    (place / "installed.py").write_text("1")
    monkeypatch.setattr(vispco, "__file__", str(place / "installed.py"))
    assert environment()["git"] == {"vispco": None, "here": {"commit": commit, "dirty": False}}


def test_without_git_and_without_repositories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert environment()["git"]["here"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["git"] == {"vispco": None, "here": None}


def test_every_start_has_an_entry(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    shown = record_environment(folder)
    assert "packages" not in shown
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    record_environment(folder)
    first, second = read_environments(tmp_path)
    assert {name: first[name] for name in shown} == shown
    assert second["variables"]["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"starts": 3}', b'{"starts": [3]}', b"\xff"])
def test_a_damaged_file_is_as_good_as_none(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    assert read_environments(tmp_path) == []
    record_environment(RunFolder(tmp_path))
    assert len(read_environments(tmp_path)) == 1


def test_what_differs_is_named_with_both_values():
    then = environment()
    now = json.loads(json.dumps(then))
    assert environment_differences(then, now) == {}
    now.update(started="later", command=["other"], processes=2)
    now["variables"]["PYTHONHASHSEED"] = "3"
    assert environment_differences(then, now) == {}, "none of it has a say"
    now["packages"]["torch"] = "0.1"
    now["packages"]["new"] = "1"
    now["git"]["vispco"] = {"commit": "c", "dirty": None}
    then["git"]["vispco"] = None
    assert environment_differences(then, now) == {
        "packages.torch": (then["packages"]["torch"], "0.1"),
        "git.vispco.commit": (None, "c"),
        "packages.new": (None, "1"),
    }
