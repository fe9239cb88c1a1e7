"""Pages with tables that are generated from results, and results with one record per line."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """The page with every table between its marks made anew; KeyError for one that is unknown."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{blocks[match[2]].strip()}\n\n{match[3]}", text)


def rewrite(page: Path, blocks: Mapping[str, str]) -> None:
    page.write_text(fill(page.read_text(), blocks))


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; columns but the first are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def dump(results: Any, depth: int = 3) -> str:
    """JSON that is indented to ``depth`` and has one line for what is below."""

    def lines(value: Any, level: int) -> str:
        if not isinstance(value, dict) or level >= depth or not value:
            return json.dumps(value, separators=(",", ":"))
        inner = ",\n".join(f"{'  ' * (level + 1)}{json.dumps(key)}: {lines(v, level + 1)}" for key, v in value.items())
        return f"{{\n{inner}\n{'  ' * level}}}"

    return lines(results, 0) + "\n"


def percent(interval: list[float], *, sign: bool = False) -> str:
    """An interval in points of percent."""
    # Adding 0 makes a zero of -0.
    value, low, high = (f"{round(100 * number, 1) + 0.0:{'+' if sign else ''}.1f}" for number in interval)
    return f"{value} [{low}, {high}]"
