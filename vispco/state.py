"""What a search has found out so far, on disk: the same command goes on where a killed process stopped.

A search is deterministic, so its position is nowhere written down. It runs again from its beginning, and whatever took
long and is here is read instead of computed. That is of two kinds:

- *work*: numbers that are a function of a request, such as KL of a batch under some schedules; a file each, named by a
  digest of the request;
- *snapshots*: the variables of an iteration after a step, of which the last two are kept.

``state.json`` states the facts that all of it depends on; another search is refused. All files are safetensors and JSON
and carry a checksum of what is in them and a digest of the facts. A file that does not hold what it says is as good as
absent. With several processes, the main one reads and writes.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vispco import parallel
from vispco.disk import replace_file
from vispco.errors import RunError

LAYOUT = "1"
"""Of the files; another one is refused."""

KEPT = 2
"""Snapshots of an iteration: should the last one be damaged, there is one more."""

FACTS = "state.json"


class Snapshot(NamedTuple):
    """Variables of an iteration after ``step`` steps; tensors, and what goes into JSON."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class State:
    """A folder of what one search has found out; without a folder nothing is kept.

    Parameters
    ----------
    folder : Path or None
        Made when there is something to keep.

    Attributes
    ----------
    resumed : bool
        Whether an earlier process of the same search has been here.
    """

    def __init__(self, folder: Path | None = None):
        self.folder, self.resumed = folder, False
        self._facts: dict[str, str] = {}
        self._seal = ""

    def check(self, facts: Mapping[str, str]) -> None:
        """Take up what is here; nothing is written yet.

        Parameters
        ----------
        facts : mapping of str to str
            All that results depend on, by the names that people know.

        Raises
        ------
        RunError
            If what is here depends on other facts, naming the first that differs; or cannot be read.
        """
        self._facts = dict(facts)
        self._seal = _digest(json.dumps(self._facts, sort_keys=True).encode())
        if self.folder is None:
            return
        path = self.folder / FACTS
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            layout, theirs = stated["layout"], dict(stated["facts"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise RunError(f"{path}: cannot be read ({error}); remove {self.folder} to begin again") from None
        for name, ours in {"layout": LAYOUT, **facts}.items():
            other = {"layout": layout, **theirs}.get(name)
            if other != ours:
                raise RunError(
                    f"{self.folder} is of a search with {name} = {other!r} and not {ours!r}; go on with that one, "
                    f"choose another hydra.run.dir, or remove {self.folder} to begin again"
                )
        self.resumed = True

    def begin(self) -> None:
        """State the facts: from here on there is something to go on with. A search that was refused leaves nothing.

        Raises
        ------
        RunError
            If the folder cannot be written.
        """
        if self.folder is not None and not self.resumed:
            stated = {"layout": LAYOUT, "facts": self._facts}
            self._write(self.folder / FACTS, json.dumps(stated, indent=2, sort_keys=True).encode())

    def work(
        self,
        requests: Sequence[JsonValue],
        sizes: Sequence[int],
        compute: Callable[[int], Tensor],
        advance: Callable[[int], None] | None = None,
    ) -> list[Tensor]:
        """Results of units of work, in their order; those that are known are not computed again.

        Several processes share the others out. Results of the main one are kept at once, those of others at the end.

        Parameters
        ----------
        requests : sequence
            What each result is a function of besides the facts, as JSON; all processes have the same.
        sizes : sequence of int
            Numbers in each result.
        compute : callable
            From the index of a unit to its result, shape (size,), float64.
        advance : callable or None
            Called with the index of every unit when this process is past it.
        """
        paths = [self._path("work", _digest(json.dumps(request, sort_keys=True).encode())[:32]) for request in requests]
        found = [self._known(path, size) for path, size in zip(paths, sizes, strict=True)]
        known = parallel.combine(torch.tensor([tensor is not None for tensor in found], dtype=torch.int64)).bool()
        own = parallel.share(len(paths))
        for unit, path in enumerate(paths):
            if not known[unit] and unit in own:
                found[unit] = result = compute(unit).double()
                self._keep(path, {"result": result}, {})
            if advance:
                advance(unit)
        ends = list(accumulate(sizes, initial=0))
        joined = torch.zeros(ends[-1], dtype=torch.float64)
        for each, (start, end) in zip(found, pairwise(ends), strict=True):
            if each is not None:
                joined[start:end] = each
        joined = parallel.combine(joined)
        results = [joined[start:end] for start, end in pairwise(ends)]
        for unit, path in enumerate(paths):
            if found[unit] is None:
                self._keep(path, {"result": results[unit]}, {})
        return results

    def save(self, name: str, snapshot: Snapshot) -> None:
        """Keep the variables of an iteration; older ones go when these can be read."""
        path = self._path("snapshots", f"{name}-{snapshot.step:08d}")
        self._keep(path, snapshot.tensors, {"step": snapshot.step, **snapshot.values})
        if path is not None and self._read(path) is not None:
            for old in sorted(path.parent.glob(f"{name}-*.safetensors"))[:-KEPT]:
                old.unlink(missing_ok=True)

    def latest(self, name: str) -> Snapshot | None:
        """The last variables of an iteration that can be read, the same for all processes."""
        files = [] if self.folder is None else sorted((self.folder / "snapshots").glob(f"{name}-*.safetensors"))
        good = next((path for path in reversed(files) if self._read(path) is not None), None)
        content = b"nothing" if good is None else good.read_bytes()
        content = parallel.hand_out(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0).numpy().tobytes()
        found = _unpack(content, self._seal)
        if found is None:
            return None
        tensors, values = found
        return Snapshot(values.pop("step"), tensors, values)

    def _path(self, kind: str, name: str) -> Path | None:
        return None if self.folder is None else self.folder / kind / f"{name}.safetensors"

    def _known(self, path: Path | None, size: int) -> Tensor | None:
        found = None if path is None else self._read(path)
        return None if found is None or found[0]["result"].shape != (size,) else found[0]["result"]

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What is in a file; None if there is none or it is damaged, which is said."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        found = _unpack(content, self._seal)
        if found is None:
            print(f"vispco: {path} is damaged; what was in it is computed again", file=sys.stderr)
        return found

    def _keep(self, path: Path | None, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        if path is not None:
            self._write(path, _pack(tensors, values, self._seal))

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
        except OSError as error:
            raise RunError(
                f"{path}: cannot be written ({error.strerror}); make room or choose another hydra.run.dir; what was "
                "found so far is kept, and the same command goes on with it"
            ) from None


def _pack(tensors: Mapping[str, Tensor], values: Mapping[str, Any], seal: str) -> bytes:
    """Tensors and JSON as safetensors, with the facts' digest and a checksum of all of it."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    stated = json.dumps({"facts": seal, **values}, sort_keys=True)
    return save(whole, {"values": stated, "sha256": _checksum(whole, stated)})


def _unpack(content: bytes, seal: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What :func:`_pack` was given; None if the bytes are not that, or under other facts."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        values = json.loads(header["values"])
        sound = header["sha256"] == _checksum(tensors, header["values"]) and values.pop("facts") == seal
    except (ValueError, LookupError, TypeError, RecursionError, SafetensorError):
        return None
    return (tensors, values) if sound else None


def _checksum(tensors: Mapping[str, Tensor], stated: str) -> str:
    digest = hashlib.sha256(stated.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
