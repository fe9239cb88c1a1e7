"""Where a checkpoint is: a folder, an embedded one, or a pinned revision on the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vispco.embedded import locate
from vispco.errors import ModelError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""Files of a repository that are fetched: no code and no pickles."""
UNWANTED = ["*/*", "consolidated*"]
"""Of these, copies of the weights in other formats."""


def find_checkpoint(path: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a checkpoint, and its name for people.

    What is not in the hub's cache yet is downloaded to it, unless ``HF_HUB_OFFLINE`` is set.

    Parameters
    ----------
    path : str
        A folder, the name of an embedded checkpoint, or ``org/name`` on the hub.
    revision : str or None
        Commit or tag; needed with a name on the hub, and only there.

    Returns
    -------
    folder : Path
    name : str
        ``path``; of a checkpoint from the hub, ``org/name@commit``.

    Raises
    ------
    ModelError
        If there is none, or a revision is missing or too much.
    """
    folder = locate(path)
    if folder.exists() or not HUB_ID.fullmatch(path):
        if not (folder / "config.json").is_file():
            raise ModelError(f"{path}: no checkpoint here (config.json is missing); give a folder of save_pretrained")
        if revision is not None:
            raise ModelError(
                f"model.revision={revision} is for checkpoints on the hub, but {path} is a folder; leave it out"
            )
        return folder, path
    if revision is None:
        raise ModelError(
            f"{path}: no such folder, and on the hub branches move; pin model.revision to a commit or a tag, or give "
            "a folder"
        )
    try:
        snapshot = Path(snapshot_download(path, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except Exception as error:  # the hub's own errors, those of its HTTP library, and those of the disk
        raise ModelError(f"{path} at revision {revision}: {_advice(error, path, revision)}") from None
    if not (snapshot / "config.json").is_file():
        raise ModelError(f"{path} at revision {revision}: no checkpoint there (config.json is missing)")
    return snapshot, f"{path}@{snapshot.name}"


def _advice(error: Exception, path: str, revision: str) -> str:
    """What went wrong on the hub, and what to do."""
    # The first cases are special cases of the later ones.
    if isinstance(error, GatedRepoError):
        return f"the hub lets nobody in without leave; ask for it at the model's page, then run `{_LOGIN}`"
    if isinstance(error, RevisionNotFoundError):
        return "the hub has no such revision; look for commits and tags at the model's page"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no such model, or it is private; check the name, or run `{_LOGIN}`"
    if isinstance(error, HfHubHTTPError):
        return f"the hub answers {error.response.status_code}; try again later, or give a folder"
    if isinstance(error, EntryNotFoundError):
        return (
            f"not whole on this machine, and the hub cannot be reached; run `hf download {path} --revision {revision}` "
            "where it can, or give a folder"
        )
    return f"cannot be fetched ({first_line(error)}); give a folder"


_LOGIN = "hf auth login"


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
