"""What mkdocs does not do by itself: pages from outside of docs/, and docstrings with roles of Sphinx."""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = ("experiments/**/*.md", "experiments/**/*.png", "CONTRIBUTING.md")
LINK = re.compile(r"(!?\[[^\]]*\])\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)")
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([^<]+)</code>")


def _outside(pattern: str) -> list[str]:
    """Paths from the top of the repository, the overview of a folder before its other pages."""
    found = [path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)]
    return sorted(found, key=lambda path: path.replace("README", ""))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the section of the studies, so that a new one needs no line."""
    assert config.nav is not None
    for entry in config.nav:
        if isinstance(entry, dict) and "Reproduction" in entry:
            entry["Reproduction"] = _outside(OUTSIDE[0])
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add pages and pictures from outside, under their paths in the repository."""
    for pattern in OUTSIDE:
        for path in _outside(pattern):
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are right in the repository become links of the site; what is not part of it stays as text."""
    assert page.file.abs_src_path is not None
    here = Path(page.file.abs_src_path).parent

    def relink(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        path = Path(os.path.normpath(here / target))
        inside = path.relative_to(Path(config.docs_dir) if path.is_relative_to(config.docs_dir) else ROOT).as_posix()
        if files.get_file_from_path(inside) is None:
            return text.strip("![]")
        return f"{text}({os.path.relpath(inside, Path(page.file.src_uri).parent)}{anchor or ''})"

    return LINK.sub(relink, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Roles of Sphinx become code, and the two colons before a block become one."""
    return ROLE.sub(r"<code>\1</code>", html).replace("::</p>", ":</p>")
