"""Break the product on purpose, and see the tests of its promises turn red.

    python tests/redden.py            every mutation of `red.toml`, with each of its tests
    python tests/redden.py 2 14       those of some promises
    python tests/redden.py --table    the table of `README.md`

Mutated code is compiled in a process of its own, as in `mutation.py`; nothing is written to the checkout. Every test
has to pass first without the mutation (left out with --hurry). Exit code 1 if a test stays green.
"""

import argparse
import os
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from mutation import ROOT, prepare, start

PROMISES: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("red.toml").read_text())["promise"]


def table() -> str:
    """The promises as Markdown."""
    lines = ["| # | promise | tests | mutations that turned them red |", "|---|---|---|---|"]
    for promise in PROMISES:
        mutations = promise.get("red", [])
        tests = [_code(name.removeprefix("tests/")) for red in mutations for name in red["tests"]]
        tests += [f"{_code(name.removeprefix('tests/'))} ({promise['why']})" for name in promise.get("elsewhere", [])]
        changes = [
            f"`{red['file'].removeprefix('vispco/')}`: {_code(red['old'])} → {_code(red['new'])}" for red in mutations
        ]
        cells = (str(promise["number"]), promise["says"], "<br>".join(dict.fromkeys(tests)), "<br>".join(changes))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{' '.join(text.split())}`".replace("|", "\\|") if text.strip() else "nothing"


def status(tests: list[str], module: str | None = None, code: str | None = None, patience: float = 300.0) -> int:
    """Exit status of pytest; 1 also if the tests have not ended in time."""
    pid, deadline = start(tests, module, code), time.monotonic() + patience
    while True:
        done, ended = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(ended)
        if time.monotonic() > deadline:
            os.killpg(pid, 9)
            os.waitpid(pid, 0)
            return 1
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--hurry", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(), end="")
        return
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    prepare(["tests/engine/test_prefill.py", "tests/search/test_starts.py"])
    green = 0
    for promise in PROMISES:
        if options.numbers and promise["number"] not in options.numbers:
            continue
        for red in promise.get("red", []):
            source = (ROOT / red["file"]).read_text()
            for test in red["tests"]:
                chosen = [test, "-m", "not gpu", *(["-k", red["only"]] if "only" in red else [])]
                before = 0 if options.hurry else status(chosen)
                after = status(chosen, red["file"], source.replace(red["old"], red["new"]))
                seen = {(0, 1): "red", (0, 0): "STAYS GREEN"}.get((before, after), f"UNCLEAR ({before}, {after})")
                green += seen != "red"
                print(f"{promise['number']:2}  {seen:12}  {test}", flush=True)
    sys.exit(bool(green))


if __name__ == "__main__":
    main()
