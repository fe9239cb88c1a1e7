"""Reads back what Weights & Biases wrote offline: records in LevelDB's log format behind a header of 7 bytes."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import ArtifactRecord, MetricRecord, Record, RunRecord

BLOCK = 32768
FULL, LAST = 1, 4


def read_records(path):
    """Records of a .wandb file; a torn last one is left out."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    records, part, place = [], b"", 7
    while place + 7 <= len(content):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        if kind == 0:
            place += left
            continue
        part += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(part)
            records.append(record)
            part = b""
    return records


@dataclass
class OfflineRun:
    """One folder offline-run-*."""

    folder: Path
    run: RunRecord
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[MetricRecord] = field(default_factory=list)
    artifacts: list[ArtifactRecord] = field(default_factory=list)
    exit_code: int | None = None

    def table(self, key):
        """Columns and rows of the last table logged under a key."""
        read = json.loads((self.folder / "files" / self.history_of(key, "path")).read_text())
        return read["columns"], read["data"]

    def history_of(self, *keys):
        """The last value of a nested key."""
        return [entry["/".join(keys)] for entry in self.history if "/".join(keys) in entry][-1]

    def files(self, kind):
        """Contents of the files of the artifacts of a type, by their names in it."""
        entries = [entry for each in self.artifacts if each.type == kind for entry in each.manifest.contents]
        return {entry.path: Path(entry.local_path).read_bytes() for entry in entries}


def read_offline(home):
    """All runs below the folder wandb of ``home`` of which anything was written, oldest first."""
    runs = [run for path in home.glob("wandb/offline-run-*") if (run := _read(path)) is not None]
    return sorted(runs, key=lambda each: (each.run.start_time.seconds, each.run.start_time.nanos))


def _read(folder):
    (log,) = folder.glob("run-*.wandb")
    found = None
    for record in read_records(log):
        kind = record.WhichOneof("record_type")
        if kind == "run" and found is None:
            found = OfflineRun(folder, record.run, {e.key: json.loads(e.value_json) for e in record.run.config.update})
        elif kind == "config":
            found.config |= {_key(e): json.loads(e.value_json) for e in record.config.update}
        elif kind == "history":
            found.history.append({_key(e): json.loads(e.value_json) for e in record.history.item})
        elif kind == "summary":
            found.summary |= {_key(e): json.loads(e.value_json) for e in record.summary.update}
        elif kind == "metric":
            found.metrics.append(record.metric)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _key(item):
    return item.key or "/".join(item.nested_key)
