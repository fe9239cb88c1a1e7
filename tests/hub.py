"""A cache of the Hugging Face hub with one repository in it, and no way to the hub."""

from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAG = "v1.0"


def cached_repository(monkeypatch, cache, folder, name):
    """The files of ``folder`` as what was downloaded of ``name`` at :data:`COMMIT`, which has a :data:`TAG`."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / TAG).write_text(COMMIT)
    for file in folder.iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)
    return snapshot
