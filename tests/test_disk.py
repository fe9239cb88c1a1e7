"""Files are whole or not there, whatever goes wrong while they are written."""

import errno
import os

import pytest

from vispco.disk import replace_file

STEPS = ("fsync", "replace")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full", "interrupted"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, step, error):
    path = tmp_path / "a.json"
    path.write_bytes(b"before")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        replace_file(path, b"after")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.json", b"before")]


def test_content_is_on_disk_before_it_gets_its_name_and_the_name_after_it(tmp_path, monkeypatch):
    done = []

    def noted(name):
        real = getattr(os, name)

        def call(*arguments):
            done.append(name if name == "replace" else os.readlink(f"/proc/self/fd/{arguments[0]}"))
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    for step in STEPS:
        noted(step)
    replace_file(tmp_path / "a.json", b"content")
    assert (tmp_path / "a.json").read_bytes() == b"content"
    content, renamed, folder = done
    assert os.path.dirname(content) == folder == str(tmp_path)
    assert renamed == "replace"


def test_others_may_read_it(tmp_path):
    replace_file(tmp_path / "a.json", b"")
    (tmp_path / "b.json").write_bytes(b"")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode
