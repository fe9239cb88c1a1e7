"""What the documents say is true: snippets run, commands are known, links lead somewhere."""

import os
import re
from pathlib import Path

import pytest

from vispco.cli import VERBS, main
from vispco.data import load_samples

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("experiments/**/*.md"), *ROOT.glob("docs/**/*.md")]
    if ".venv" not in path.parts
]

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
WITH_CODE = [page for page in PAGES if CODE.search(page.read_text())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder in which a small search has finished as `runs/demo`."""
    where = tmp_path_factory.mktemp("work")
    before = Path.cwd()
    os.chdir(where)
    try:
        options = ["search=step", "search.ladder=[0.5,0.2]", "budget.values=[0.5,0.8]", "tracker=none"]
        sizes = ["data.search_samples=16", "data.report_samples=16", "progress=false"]
        assert main(["search", *options, *sizes, "hydra.run.dir=runs/demo"]) == 0
        assert main(["export", "runs/demo", "--budget", "0.5", "-o", "best.json"]) == 0
        yield where
    finally:
        os.chdir(before)


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page, folder, capsys):
    """Blocks marked ``python`` are one program, with a picture of shapes world as ``image``; ``py`` marks fragments."""
    scope = {"image": load_samples("shapes", "test", 1)[0].image}
    for block in CODE.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), scope)
    said = capsys.readouterr().out
    assert said
    if "pruned" in scope:
        assert "what color is the circle ?" in said
        assert scope["pruned"].kept_counts.shape == (8, 1)


def test_documented_commands_exist():
    verbs = set(re.findall(r"^vispco (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert verbs == set(VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_no_placeholder_is_left():
    for page in PAGES:
        assert "PLACEHOLDER" not in page.read_text(), page
