"""Checkpoints from the hub: pinned, out of its cache; every way to miss one has one line that says what to do."""

from types import SimpleNamespace

import pytest
from hub import COMMIT, TAG, cached_repository
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vispco.embedded import MODELS
from vispco.engine import fingerprint, load_checkpoint, locating, model_card
from vispco.errors import ModelError


@pytest.mark.parametrize("name", ["micro-llava", "micro-qwen2.5-vl"])
def test_a_pinned_checkpoint_opens_from_the_cache(name, tmp_path, monkeypatch):
    cached_repository(monkeypatch, tmp_path, MODELS[name], f"org/{name}")
    model, processor = load_checkpoint(f"org/{name}", revision=TAG)
    assert fingerprint(model) == fingerprint(load_checkpoint(name)[0])
    assert processor.chat_template
    assert model_card(model, model.config._name_or_path).name == f"org/{name}@{COMMIT}", "a tag may move"


def test_the_commit_itself_is_a_revision(tmp_path, monkeypatch):
    snapshot = cached_repository(monkeypatch, tmp_path, MODELS["micro-llava"], "org/model")
    assert locating.find_checkpoint("org/model", COMMIT) == (snapshot, f"org/model@{COMMIT}")


def test_a_name_on_the_hub_needs_a_revision(tmp_path, monkeypatch):
    cached_repository(monkeypatch, tmp_path, MODELS["micro-llava"], "org/model")
    with pytest.raises(ModelError, match=r"org/model: no such folder.*pin model\.revision to a commit or a tag"):
        load_checkpoint("org/model")


@pytest.mark.parametrize(("name", "revision"), [("org/model", "v2.0"), ("org/model", "f" * 40), ("org/other", TAG)])
def test_what_is_not_in_the_cache_is_to_be_downloaded_first(name, revision, tmp_path, monkeypatch):
    cached_repository(monkeypatch, tmp_path, MODELS["micro-llava"], "org/model")
    with pytest.raises(ModelError, match=f"hf download {name} --revision {revision}"):
        load_checkpoint(name, revision=revision)


def test_another_kind_of_repository_is_refused(tmp_path, monkeypatch):
    (cached_repository(monkeypatch, tmp_path, MODELS["micro-llava"], "org/model") / "config.json").unlink()
    with pytest.raises(ModelError, match=r"org/model at revision v1\.0: no checkpoint there"):
        load_checkpoint("org/model", revision=TAG)


ANSWER = SimpleNamespace(headers={}, request=None, status_code=503)
ERRORS = {
    "ask for it at the model's page": GatedRepoError("403\nlong text", response=ANSWER),
    "has no such revision": RevisionNotFoundError("404", response=ANSWER),
    "no such model, or it is private": RepositoryNotFoundError("404", response=ANSWER),
    "answers 503; try again later": HfHubHTTPError("503", response=ANSWER),
    "hf download org/model --revision v1": LocalEntryNotFoundError("3 files are missing"),
    r"cannot be fetched \(no route\); give a folder": ConnectionError("no route"),
    r"cannot be fetched \(disk full\)": OSError("disk full"),
}


@pytest.mark.parametrize("said", ERRORS)
def test_every_error_of_the_hub_has_one_line(said, monkeypatch):
    def fail(*args, **kwargs):
        raise ERRORS[said]

    monkeypatch.setattr(locating, "snapshot_download", fail)
    with pytest.raises(ModelError, match=f"org/model at revision v1: .*{said}") as caught:
        load_checkpoint("org/model", revision="v1")
    assert "\n" not in str(caught.value)


def test_only_data_is_fetched(monkeypatch):
    """Weights in safetensors and what describes them: no code, no pickles, no second copy of the weights."""
    from huggingface_hub.utils import filter_repo_objects

    files = [
        "config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "chat_template.jinja", "merges.txt",
        "modeling.py", "pytorch_model.bin", "original/params.json", "consolidated.safetensors", "weights.pkl",
    ]  # fmt: skip
    asked = {}
    monkeypatch.setattr(locating, "snapshot_download", lambda name, **how: asked.update(how) or MODELS["micro-llava"])
    locating.find_checkpoint("org/model", "v1")
    patterns = {name: asked[name] for name in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(files, **patterns)) == files[:5]


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "../org/model", "model", "org/model/deeper"])
def test_other_paths_are_folders(path):
    with pytest.raises(ModelError, match="no checkpoint here"):
        load_checkpoint(path, revision="v1")


@pytest.mark.parametrize("path", ["micro-llava", str(MODELS["micro-llava"])])
def test_a_folder_has_no_revision(path):
    with pytest.raises(ModelError, match=r"model\.revision=v1 is for checkpoints on the hub"):
        load_checkpoint(path, revision="v1")


def test_a_folder_goes_before_a_name_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "model").symlink_to(MODELS["micro-llava"])
    monkeypatch.chdir(tmp_path)
    assert model_card(load_checkpoint("org/model")[0], "x").layers == 8
