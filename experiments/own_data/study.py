"""A stranger's path: a checkpoint folder and a table of one's own, and one command each for what follows.

    python -m experiments.own_data.study shapes
    python -m experiments.own_data.study nlvr --table nlvr_dev.tsv

``shapes`` writes a table of 1,000 rows of shapes world, without a column of splits. The embedded checkpoint is copied
out of the package; nothing else of it is used. Every command is the program's own, in a process of its own.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vispco import read_points
from vispco.embedded import locate, shapes

OUT = Path(__file__).parent / "results"
DATA = ["data=table", "data.split_by=hash", "data.batch_size=64", "data.max_new_tokens=4"]
"""Splits by the hash of the picture, whatever columns there are."""


def commands(sizes: list[str]) -> dict[str, list[str]]:
    """What a stranger types, in order; paths are within the working folder."""
    own = ["model.path=checkpoint", "data.path=table.tsv", *DATA, *sizes]
    search = ["vispco", "search", *own, "budget.values=[0.4,0.55,0.75]", "progress=false"]
    return {
        "search": [*search, "hydra.run.dir=runs/fastv"],
        "another search": [*search, "selector=visual_fastv", "hydra.run.dir=runs/visual_fastv"],
        "compare": ["vispco", "compare", "runs/fastv", "runs/visual_fastv", "-o", "both.png"],
        "export": ["vispco", "export", "runs/fastv", "--budget", "0.55", "-o", "best.json"],
        "eval": ["vispco", "eval", "best.json", *own, "-o", "scores.json"],
    }


def write_table(path: Path, rows: int) -> None:
    """Shapes world as VLMEvalKit stores data sets: index, image, question, answer, category."""
    shapes.write_tsv(path, "test", rows, 0)
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [place for place, name in enumerate(lines[0]) if name != "split"]
    path.write_text("".join("\t".join(line[p] for p in kept) + "\n" for line in lines), encoding="utf-8")


def walk(folder: Path, sizes: list[str], log: Path) -> None:
    """Run every command in ``folder``; the first that fails ends it."""
    program = [sys.executable, "-m", "vispco"]
    with log.open("w") as file:
        for name, words in commands(sizes).items():
            print(name, flush=True)
            subprocess.run([*program, *words[1:]], cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=True)


def record(folder: Path) -> dict[str, object]:
    """What came out: scores of `vispco eval`, and how each search went on the report split."""
    scores = json.loads((folder / "scores.json").read_text())
    runs = {}
    for run in ("fastv", "visual_fastv"):
        frontier = json.loads((folder / "runs" / run / "frontier.json").read_text())
        points = [point for point in read_points(folder / "runs" / run) if point.split == "test"]
        runs[run] = {
            "data": frontier.get("data"),
            "samples": points[0].samples,
            "scores": {point.name: point.quality["score"] for point in points},
            "flops": {point.name: point.costs["flops"] for point in points},
        }
    return {"eval": {name: scores[name] for name in ("data", "visual_tokens", "results")}, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the results")
    parser.add_argument("--table", type=Path, help="tab-separated, images in base64; shapes world if not given")
    parser.add_argument("--rows", type=int, default=1000, help="of shapes world")
    parser.add_argument("--sizes", nargs="*", default=["data.search_samples=400", "data.report_samples=600"])
    parser.add_argument("--keep", type=Path, help="folder to keep everything in; must not exist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary) / "work"
        folder.mkdir()
        shutil.copytree(locate("micro-llava"), folder / "checkpoint")
        if options.table is None:
            write_table(folder / "table.tsv", options.rows)
        else:
            shutil.copy(options.table, folder / "table.tsv")
        walk(folder, options.sizes, folder / "log.txt")
        OUT.mkdir(exist_ok=True)
        (OUT / f"{options.name}.json").write_text(json.dumps(record(folder), indent=1) + "\n")


if __name__ == "__main__":
    main()
