"""`vispco selectors` and the page of the documents are one table."""

from pathlib import Path

import pytest

from vispco.cli import main
from vispco.cli.selectors import HEADINGS, markdown
from vispco.selectors import REGISTRY, Nested

ROOT = Path(__file__).parents[2]


def test_the_page_of_the_documents_is_generated():
    page = (ROOT / "docs" / "selectors.md").read_text()
    assert markdown() in page, "run `vispco selectors --markdown` and put its output into docs/selectors.md"


def test_every_selector_has_a_row_that_says_what_it_is():
    rows = {
        line.split(" | ")[0].removeprefix("| "): line.strip("| \n").split(" | ") for line in markdown().splitlines()
    }
    assert list(rows)[2:] == list(REGISTRY)
    for name, kind in REGISTRY.items():
        assert len(rows[name]) == len(HEADINGS)
        assert rows[name][3] == ("yes" if issubclass(kind, Nested) else "no")
        assert set(rows[name][2].split(", ")) == set(kind.needs)
    assert rows["fastv"][1:6] == ["scorer", "last_row", "yes", "yes", "no"]
    assert rows["divprune"][1:6] == ["orderer", "embeddings", "yes", "yes", "yes"]
    assert rows["mob"][1:6] == ["setter", "hidden", "no", "no", "yes"]
    assert rows["pooling"][1:6] == ["merger", "grid", "no", "no", "yes"]
    assert rows["fastervlm"][1:6] == ["scorer", "tower_row", "yes", "yes", "in the decoder"]
    assert rows["mustdrop"][5] == rows["sparsevlm_plus"][5] == "no"
    assert rows["window_fastv"][6] == "window 1..32"
    assert rows["balanced_fastv"][6] == "alpha 0..1 (by gradient)"


def test_the_verb_prints_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["selectors"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "…" not in said
    assert all(f"│ {name} " in said for name in REGISTRY)
    assert main(["selectors", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown()


def test_every_selector_is_a_group_of_the_search():
    assert {file.stem for file in (ROOT / "conf" / "selector").glob("*.yaml")} == set(REGISTRY)


def test_unknown_arguments_are_refused():
    with pytest.raises(SystemExit) as stop:
        main(["selectors", "fastv"])
    assert stop.value.code == 2
