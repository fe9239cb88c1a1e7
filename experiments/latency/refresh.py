"""Put the tables of the committed results into the pages of this folder.

python -m experiments.latency.refresh

A table stands between ``<!-- name -->`` and ``<!-- end -->``. Figures in the text are for the writer to look after.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.latency import delivered, real_scale, search_memory

FOLDER = Path(__file__).parent
Tables = Mapping[str, tuple[str, Callable[[Any], str]]]
PAGES: dict[str, Tables] = {
    "real_scale.md": {
        "checks": ("real_scale.json", real_scale.checks),
        "costs": ("real_scale.json", real_scale.table),
    },
    "search_memory.md": {"memory": ("search_memory.json", search_memory.table)},
    "delivered.md": {
        "delivered": ("delivered_cpu.json", delivered.table),
        "without the engine": ("delivered_cpu.json", delivered.explanation),
        "engine": ("delivered_engine_cpu.json", delivered.shares),
        "lengths": ("delivered_cpu.json", delivered.lengths),
    },
}
"""By page and name: the file of results and what makes the table of it."""


def refreshed(page: str, tables: Tables, folder: Path = FOLDER) -> str:
    """A page's text with its tables made anew; one whose results are not there stays as it is.

    Raises
    ------
    ValueError
        If the page has no place for a table.
    """
    text = (folder / page).read_text()
    for name, (file, make) in tables.items():
        place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"{page} has no place for the table {name!r}; write <!-- {name} --> and <!-- end -->")
        results = folder / "results" / file
        if results.exists():
            made = make(json.loads(results.read_text()))
            text = place.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
    return text


def main() -> None:
    for page, tables in PAGES.items():
        (FOLDER / page).write_text(refreshed(page, tables))


if __name__ == "__main__":
    main()
