"""A few kills by the harness, of which ``make soak`` does many, and that it sees what it is there to see."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import killing
import pytest

COMPLETE = {"op_code": 6, "state": 1}


@pytest.mark.slow
@pytest.mark.parametrize("method", killing.METHODS)
def test_kills_change_nothing(method):
    seed = str(secrets.randbelow(2**31))
    command = [sys.executable, killing.__file__, "--kills", "2", "--moments", "1", "--seed", seed, "--methods", method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"seed {seed}:\n{done.stdout}{done.stderr}"
    assert "0 losses, 0 differences" in done.stdout.splitlines()[-1]


@pytest.fixture
def folder(tmp_path):
    work = tmp_path / "state" / "work" / "a.safetensors"
    work.parent.mkdir(parents=True)
    work.write_bytes(b"found")
    journal = [{"op_code": 4}, COMPLETE, {"op_code": 4}]
    (tmp_path / "study.log").write_text("".join(json.dumps(record) + "\n" for record in journal) + '{"op_co')
    return tmp_path


def test_what_is_found_once_is_no_loss(folder):
    """Nor is a trial that was under way and is begun again."""
    before, journal = killing.Found.of(folder), folder / "study.log"
    finished = b"".join(journal.read_bytes().splitlines(keepends=True)[:2])
    (folder / "state" / "work" / "b.safetensors").touch()
    journal.write_bytes(finished + b'{"op_code": 4, "again": 1}\n' + json.dumps(COMPLETE).encode() + b"\n")
    assert before.lost(killing.Found.of(folder)) == 0


def replaced(path: Path):
    path.rename(path.with_name("other"))
    path.write_bytes(b"found")


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "state" / "work" / "a.safetensors").unlink(),
        lambda folder: replaced(folder / "state" / "work" / "a.safetensors"),
        lambda folder: (folder / "study.log").write_text('{"op_code": 4}\n'),
        lambda folder: (folder / "study.log").unlink(),
    ],
)
def test_what_is_gone_or_found_again_is_a_loss(harm, folder):
    before = killing.Found.of(folder)
    harm(folder)
    assert before.lost(killing.Found.of(folder)) == 1


def test_other_results_are_seen(tmp_path):
    (tmp_path / "points.jsonl").touch()
    (tmp_path / "frontier.json").write_text(tmp_path.name)
    alone, tally = killing.results(tmp_path), killing.Tally()
    killing.compare(tmp_path, alone, tally)
    assert not tally.different
    (tmp_path / "frontier.json").write_text("other")
    (tmp_path / "config-0.5.json").touch()
    killing.compare(tmp_path, alone, tally)
    assert tally.different == [f"{tmp_path.name}/config-0.5.json", f"{tmp_path.name}/frontier.json"]
