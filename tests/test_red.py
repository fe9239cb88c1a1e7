"""The table of promises names tests and code that exist."""

import ast
from pathlib import Path

import pytest
from redden import PROMISES, table

ROOT = Path(__file__).parents[1]
REDS = [(promise["number"], red) for promise in PROMISES for red in promise.get("red", [])]


def functions(file):
    return {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_promise_is_there_and_seen_red_or_says_why_not():
    assert [promise["number"] for promise in PROMISES] == list(range(1, 36))
    assert all(promise.get("red") or promise.get("why") for promise in PROMISES)


@pytest.mark.parametrize(("number", "red"), REDS, ids=lambda value: str(value) if isinstance(value, int) else "")
def test_a_mutation_still_has_its_place_and_its_tests(number, red):
    source = (ROOT / red["file"]).read_text()
    assert source.count(red["old"]) == 1, f"promise {number}: {red['file']} has changed; mend tests/red.toml"
    compile(source.replace(red["old"], red["new"]), red["file"], "exec")
    for test in red["tests"]:
        file, name = test.split("::")
        assert name in functions(file), test


def test_the_page_shows_the_table():
    assert table() in (ROOT / "tests" / "README.md").read_text(), "python tests/redden.py --table"
