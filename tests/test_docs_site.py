"""The documentation site builds, is whole, and asks for nothing from elsewhere."""

import re
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path
from urllib.parse import unquote

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import vispco

ROOT = Path(__file__).parents[1]
ROOMS = ("selectors", "kernels", "cost", "search", "frontier", "evaluation", "data", "testing")
LOADED = re.compile(r"""<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)=["']?([^"'\s>]+)""")
TARGET = re.compile(r"""\b(?:src|href)=["']?([^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it: a warning of mkdocs, such as a link that leads nowhere, fails."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: path.read_text() for path in site.rglob("*.html")}


def test_every_page_of_the_repository_is_there(site):
    folders = {ROOT / "docs": ROOT / "docs", ROOT / "experiments": ROOT}
    sources = [path.relative_to(top) for folder, top in folders.items() for path in folder.rglob("*.md")]
    for source in sources:
        name = "index.html" if source.name == "README.md" else source.with_suffix(".html").name
        assert (site / source.parent / name).exists(), source
    assert not (site / "hooks.py").exists()


def test_everything_that_a_page_names_is_there(site, pages):
    """Links, pictures, scripts and style sheets; mkdocs itself looks at links in Markdown alone."""
    for page, html in pages.items():
        for target in TARGET.findall(html):
            path = unquote(re.sub(r"[?#].*", "", target))
            if path and not re.match(r"[a-z]+:", path) and page.name != "404.html":
                assert (page.parent / path).exists(), f"{page.relative_to(site)} names {target}"


def test_links_and_pictures_lead_from_the_pages_to_the_studies(site, pages):
    assert 'src="experiments/search_cost/results.png"' in pages[site / "index.html"]
    assert 'href="experiments/selectors/index.html"' in pages[site / "selectors.html"]
    assert 'href="../experiments/latency/index.html"' in pages[site / "howto" / "several_limits.html"]
    assert 'href="selectors/index.html"' in pages[site / "experiments" / "index.html"]


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for page, html in pages.items():
        outside = [target for target in LOADED.findall(html) if re.match(r"(https?:)?//", target)]
        assert not outside, (page.relative_to(site), outside)
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\W*(https?:)?//", style.read_text()), style


def test_every_public_name_is_explained(site, pages):
    public = pages[site / "api" / "index.html"]
    assert [name for name in vispco.__all__ if f'id="vispco.{name}"' not in public] == []
    for room in ROOMS:
        page = pages[site / "api" / f"{room}.html"]
        module = import_module(f"vispco.{room}")
        for name in module.__all__:
            of = getattr(module, name)
            if isclass(of) or isfunction(of):
                places = {f"vispco.{room}.{name}", f"{of.__module__}.{name}"}
                assert any(f'id="{place}"' in page for place in places), f"docs/api/{room}.md lacks {name}"


def test_docstrings_read_well(site, pages):
    """No roles of Sphinx, no double colons before a block."""
    for page, html in pages.items():
        if page.parent.name == "api":
            text = re.sub(r"<[^>]+>", "", html)
            assert not re.search(r":(attr|class|data|func|meth|mod):", text), page.name
            assert "::</p>" not in html, page.name
