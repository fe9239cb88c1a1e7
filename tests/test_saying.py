"""Text from elsewhere cannot act on a terminal, and passwords are not shown."""

import sys

import pytest

from vispco.cli import main
from vispco.errors import DataError
from vispco.runs.guard import warn
from vispco.saying import as_line, hide_passwords, plain

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\rc\u202ed\u2028e\x9bf\ud800g\0h\u200bi"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 漢字 😀 ½ <b>", "plain äöü 漢字 😀 ½ <b>"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("over\rwritten\x08", "over\\rwritten\\x08"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
        ("\x9b1A", "\\x9b1A"),
    ],
)
def test_what_is_not_printable_is_an_escape(text, shown):
    assert plain(text) == shown


def test_a_message_is_one_printable_line():
    said = as_line(f"no\n  such\tfile {HOSTILE}; user:pw is fine, http://me:secret@host/x is not")
    assert said.startswith("no such file a\\x1b[2J")
    assert said.isprintable()
    assert said.endswith("http://me:***@host/x is not")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("storage 'postgresql://me:pa:s@s@host/x' cannot", "storage 'postgresql://me:***@host/x' cannot"),
        ("postgresql://host/x?user=me&password=hush&z=1", "postgresql://host/x?user=me&password=***&z=1"),
        ("mysql://host/x?PASSWD=hush' cannot", "mysql://host/x?PASSWD=***' cannot"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("time: 12:30 me@host", "time: 12:30 me@host"),
    ],
)
def test_passwords_are_hidden_anywhere_in_a_text(text, shown):
    assert hide_passwords(text) == shown


def test_the_program_refuses_in_one_printable_line(monkeypatch, capsys):
    def refuse(arguments):
        raise DataError(f"{HOSTILE}\nand postgresql://me:hush-hush@host/x")

    monkeypatch.setitem(sys.modules["vispco.cli"].VERBS, "models", refuse)
    assert main(["models"]) == 2
    warn(HOSTILE)
    first, second = capsys.readouterr().err.split("\n")[:2]
    assert first.isprintable()
    assert second.isprintable()
    assert "hush-hush" not in first


def test_a_file_name_of_the_command_line_is_harmless(tmp_path, capsys):
    assert main(["compare", str(tmp_path / HOSTILE.replace("\0", "")), "--wandb", "none"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.isprintable()
