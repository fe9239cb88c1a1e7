"""Commands that stand in documents: lines of fenced blocks, and code within a sentence."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHELLS = {"", "bash", "console", "sh", "shell", "text"}
PROGRAMS = {
    "accelerate", "hf", "make", "optuna-dashboard", "pip", "python", "sbatch", "srun", "torchrun", "vispco", "wandb",
}  # fmt: skip
BLOCK = re.compile(r"^( *)(`{3,}|~{3,})([^\n`]*)\n(.*?)^\1\2", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:vispco|make|python|torchrun)\s[^`]+)`(?!`)")
SETTING = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Command:
    """One command, in words as a shell would make them, and where it stands."""

    page: Path
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name
        return f"{page}:{self.line}: {' '.join(self.words)}"


def documents() -> list[Path]:
    """Every page with commands in it."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    pages += [page for top in ("docs", "experiments") for page in sorted((ROOT / top).rglob("*.md"))]
    return [page for page in pages if commands(page)]


def commands(page: Path) -> list[Command]:
    """All commands of a page, from top to bottom."""
    text = page.read_text()
    found = []
    for block in BLOCK.finditer(text):
        if block[3].strip().split(" ")[0] in SHELLS:
            first = text.count("\n", 0, block.start(4)) + 1
            found += [Command(page, first + offset, words) for offset, words in _lines(block[4])]
    prose = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    for code in INLINE.finditer(prose):
        line = prose.count("\n", 0, code.start()) + 1
        calls = _split(" ".join(code[1].split()))
        found += [Command(page, line, words) for words in calls if len(words) > 1 and "..." not in words]
    return sorted(found, key=lambda command: command.line)


def _lines(block: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Commands of a block with the number of their first line; a backslash goes on in the next one."""
    pending, start = "", 0
    for offset, line in enumerate(block.splitlines()):
        start = start if pending else offset
        pending += line.strip().removeprefix("$ ")
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        for words in _split(pending):
            yield start, words
        pending = ""


def _split(line: str) -> list[tuple[str, ...]]:
    """The programs that a line calls; loops, comments, settings before a program and redirections are left out."""
    lexer = shlex.shlex(re.sub(r"\$(\w+|\{\w+\})", "1", line), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    try:
        tokens = list(lexer)
    except ValueError:  # a quotation mark of a language that is no shell
        return []
    calls: list[list[str]] = [[]]
    skip = False
    for token in tokens:
        if skip or set(token) <= set("<>"):
            skip = not skip
        elif set(token) <= set("();|&"):
            calls.append([])
        elif calls[-1] or (token != "do" and not SETTING.match(token)):
            calls[-1].append(token)
    return [tuple(call) for call in calls if call and Path(call[0]).name in PROGRAMS]
