"""Log-probabilities of the unpruned model on disk, so that a later run does not compute them again.

Every schedule is held against them, and nothing that a search varies has a say in them. There is one safetensors file
per batch, named by a digest of its *origin*: all that the numbers depend on, which its header states in JSON.

- The model: class, configuration, attention backends, and weights (see :func:`weights_digest`).
- The batch: every tensor that enters the model, so images, prompts, chat template, answers, padding and the order of
  samples; and the rows that are read.
- The machine: device, threads, precision of float32 products, and releases of torch and transformers.

A file counts only if its header states the very origin and its numbers have the checksum that the header states.
Anything else is as good as absent, and is written anew. Code that hangs on a model (hooks) is not part of an origin:
give an evaluator no cache then.

Inputs of the first layer are not kept. They are about a hundred times as many bytes, and cost a fifth of the time.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vispco.data import user_cache
from vispco.engine.placing import device_of, stored_weights

LAYOUT = "1"
"""Part of every origin; raised when files, or how their numbers are computed, change."""
LIMIT = 4 * 2**30
"""Bytes that a cache may hold, by default."""
PREFIX = "teacher-"
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their bytes."""


class TeacherCache:
    """A folder of log-probabilities that several processes may use at once.

    A folder that cannot be read or written costs time and nothing else; that it cannot be written is said, once.

    Parameters
    ----------
    folder : Path or None
        ``vispco/teacher`` in the user's cache folder if None.
    limit : int
        Bytes. Where a new file leads beyond them, the files go that were not used for longest.
    say : callable
        Told in one line that nothing is kept, and why.
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT, say: Callable[[str], None] = lambda line: None):
        self.folder = user_cache() / "teacher" if folder is None else folder
        self.limit, self._say = limit, say
        self._said = False

    def recall(self, origin: Mapping[str, str], shape: tuple[int, ...], compute: Callable[[], Tensor]) -> Tensor:
        """What is kept under an origin; computed and stored if there is nothing.

        Parameters
        ----------
        origin : mapping of str to str
        shape : tuple of int
            First dimensions.
        compute : callable
            Gives the tensor, float32.
        """
        path = self.path(origin)
        kept = _read(path, origin)
        if kept is not None and kept.dtype == torch.float32 and kept.shape[: len(shape)] == shape:
            with suppress(OSError):
                os.utime(path)
            return kept
        computed = compute()
        try:
            self._write(path, origin, computed.cpu().contiguous())
            self._trim()
        except OSError as error:
            if not self._said:
                self._say(f"unpruned answers are not kept: {self.folder} cannot be written ({error.strerror})")
            self._said = True
        return computed

    def path(self, origin: Mapping[str, str]) -> Path:
        """Where the numbers of an origin are, or would be."""
        return self.folder / f"{PREFIX}{_digest(_text(origin).encode())[:32]}.safetensors"

    def _write(self, path: Path, origin: Mapping[str, str], value: Tensor) -> None:
        """Whole or not at all."""
        header = {"origin": _text(origin), "sha256": _digest(value.numpy().tobytes())}
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=PREFIX, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save({"teacher": value}, header))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                os.unlink(temporary)

    def _trim(self) -> None:
        """Remove what was not used for longest, with files that a killed process did not finish."""
        files = []
        for path in self.folder.glob(PREFIX + "*"):
            with suppress(OSError):  # another process may remove the same
                found = path.stat()
                files.append((found.st_mtime_ns, found.st_size, path))
        excess = sum(size for _, size, _ in files) - self.limit
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            with suppress(OSError):
                path.unlink()
            excess -= size


def _read(path: Path, origin: Mapping[str, str]) -> Tensor | None:
    try:
        content = path.read_bytes()
        value = load(content)["teacher"]
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        sound = header["origin"] == _text(origin) and header["sha256"] == _digest(value.numpy().tobytes())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    return value if sound else None


def model_origin(model: Any) -> dict[str, str]:
    """The part of an origin that all batches share."""
    device = device_of(model)
    place = f"cpu {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return {
        "layout": LAYOUT,
        "device": place if device.type == "cpu" else torch.cuda.get_device_name(device),
        **model_facts(model),
    }


def model_facts(model: Any) -> dict[str, str]:
    """What a model's numbers depend on, up to the rounding of one machine or another."""
    config = model.config
    text = config.get_text_config()
    stated = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    backends = [part._attn_implementation for part in (config, text, getattr(config, "vision_config", text))]
    return {
        "model": type(model).__name__,
        "configuration": _digest(json.dumps(stated, sort_keys=True, default=str).encode()),
        "weights": weights_digest(model),
        "attention": ", ".join(map(str, backends)),
        "precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def batch_origin(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The part of an origin that one batch has: a digest of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bits(tensor).cpu().numpy().tobytes())
    return {"batch": digest.hexdigest()}


def weights_digest(model: Any) -> str:
    """Digest of names, shapes, dtypes and the sums of the bits of every row of all weights.

    Sums of integers are exact on every device, and are quicker than a digest of billions of weights. Unlike the
    fingerprint by which points are told apart, they see a single weight that differs.
    """
    digest = hashlib.sha256()
    for name, tensor in stored_weights(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bits(tensor).sum(dim=-1, dtype=torch.int64).cpu().numpy().tobytes())
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    """The numbers' bits as integers, same shape."""
    return tensor.detach().contiguous().view(BITS[tensor.element_size()])


def _text(origin: Mapping[str, str]) -> str:
    return json.dumps(origin, sort_keys=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
