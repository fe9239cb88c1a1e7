"""Kill searches with SIGKILL, start them again, and hold what they come to against a search that nobody killed.

    python tests/killing.py --kills 200 --seed 0

Every search is killed once at a step of writing (a file that is opened to be written, brought to the disk, renamed,
cut or removed, a folder that is made), of which all have their turn, then at random moments, and at last comes to its
end. Afterwards,

- points, result and configurations are byte for byte those of the search that was left alone;
- nothing that was found before a kill was found again: files of the state are the very files that they were, and
  finished trials are a beginning of the study;
- no point is there twice.

A process is forked for every start, so that imports are paid for once.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import vispco.cli.search
from vispco.cli import main
from vispco.frontier import read_points

SMALL = ["data.search_samples=8", "data.report_samples=8", "data.batch_size=4", "data.cache_gib=0", "tracker=none",
         "progress=false", "budget.values=[0.5,0.9]", "baseline=none"]  # fmt: skip
METHODS = {
    "learned": ["search.samples=8", "search.steps=3", "search.batch=2", "search.anchors=1", "search.probe_samples=2",
                "search.start_levels=2", "search.select_samples=6"],
    "tpe": ["search=tpe", "search.samples=8", "search.trials=12"],
    "grid": ["search=grid", "search.ladder=[1.0,0.2,0.03]"],
}  # fmt: skip
FIGURES = ("plot_frontiers", "plot_schedules", "plot_costs", "write_report")
"""Left out: they are made after all that counts, and take longer than it."""

WRITING = os.O_WRONLY | os.O_RDWR
STEPS = ("os.rename", "os.remove", "os.mkdir", "os.truncate")
"""Steps of writing besides ``open``, by what Python's audit calls them; ``os.fsync`` is none of its events."""


def watch(folder: Path, fatal: int | None, count: Path) -> None:
    """Count this process's steps of writing below ``folder``, and die at the one of number ``fatal`` before it."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if fatal is None:
            os.pwrite(log, b"%8d" % done, 0)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        place = str(arguments[0]) if arguments else ""
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (writes or event in STEPS) and place.startswith(str(folder)):
            step()

    def fsync(handle: int) -> None:
        step()
        real(handle)

    log = os.open(count, os.O_CREAT | os.O_WRONLY)
    real, os.fsync = os.fsync, fsync
    sys.addaudithook(audit)


def start(name: str, folder: Path, fatal: int | None = None) -> int:
    """Begin a search in a process of its own; its number."""
    process = os.fork()
    if process:
        return process
    try:
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        watch(folder, fatal, folder.parent / f"{folder.name}.steps")
        os._exit(main(["search", *METHODS[name], *SMALL, f"hydra.run.dir={folder}"]))
    finally:
        os._exit(70)


def end(process: int) -> int:
    """How a process ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def results(folder: Path) -> dict[str, bytes]:
    """What a search came to, without the name of its folder."""
    files = [folder / "points.jsonl", folder / "frontier.json", *sorted(folder.glob("config-*.json"))]
    return {file.name: file.read_bytes().replace(folder.name.encode(), b"RUN") for file in files}


@dataclass
class Found:
    """What a killed search had found: files of the state, each as the very file that it is, and finished trials."""

    files: dict[Path, tuple[int, int]] = field(default_factory=dict)
    trials: bytes = b""

    @classmethod
    def of(cls, folder: Path) -> "Found":
        whole = [path for path in (folder / "state" / "work").glob("*.safetensors")]
        stats = {path: path.stat() for path in whole}
        return cls({path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}, finished(folder))

    def lost(self, later: "Found") -> int:
        """How much of it is not there any more, or was found again."""
        return sum(later.files.get(path) != file for path, file in self.files.items()) + (
            not later.trials.startswith(self.trials)
        )


def finished(folder: Path) -> bytes:
    """The study's journal up to the end of its last finished trial."""
    journal = folder / "study.log"
    content, end = journal.read_bytes() if journal.exists() else b"", 0
    for place, line in lines(content):
        if line.get("op_code") == 6 and line.get("state") == 1:
            end = place
    return content[:end]


def lines(content: bytes) -> Iterator[tuple[int, dict[str, object]]]:
    """Whole lines of a journal, each with where it ends."""
    place = 0
    for line in content.splitlines(keepends=True):
        place += len(line)
        if line.endswith(b"\n"):
            yield place, json.loads(line)


@dataclass
class Tally:
    """What came of the kills."""

    kills: int = 0
    searches: int = 0
    lost: int = 0
    different: list[str] = field(default_factory=list)

    def report(self) -> str:
        return (
            f"{self.kills} kills in {self.searches} searches: {self.lost} losses, {len(self.different)} differences "
            f"{' '.join(self.different)}"
        )


def kill_until_done(name: str, folder: Path, tally: Tally, moments: list[float], fatal: int) -> None:
    """Kill a search at a step of writing, then at random moments, until one process comes to the end."""
    found, log = Found(), folder.parent / f"{folder.name}.log"
    for moment in [None, *moments, math.inf]:
        process = start(name, folder, fatal if moment is None else None)
        if moment is not None and moment < math.inf:
            time.sleep(moment)
            os.kill(process, signal.SIGKILL)
        code, before, found = end(process), found, Found.of(folder)
        tally.lost += before.lost(found)
        if code != -signal.SIGKILL:
            break
        tally.kills += 1
    if code:
        tally.different.append(f"{folder.name} ended with {code}: {log.read_text()[-500:]}")


def compare(folder: Path, alone: dict[str, bytes], tally: Tally) -> None:
    """Note where a search that was killed came to something else."""
    ours = results(folder)
    names = sorted(alone.keys() | ours.keys())
    tally.different += [f"{folder.name}/{name}" for name in names if ours.get(name) != alone.get(name)]
    points = [point.model_dump_json() for point in read_points(folder)]
    if len(set(points)) != len(points):
        tally.different.append(f"{folder.name}: a point is there twice")


def run(kills: int, seed: int, methods: list[str], moments: int, every: bool) -> Tally:
    """Kill searches of all methods in turn until there were ``kills`` kills, and with ``every`` one at every step."""
    for figure in FIGURES:
        setattr(vispco.cli.search, figure, lambda *_, **__: None)
    draw, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary).resolve()
        alone, seconds, steps = {}, {}, {}
        for name in methods:
            folder, begin = home / f"{name}-alone", time.monotonic()
            code = end(start(name, folder))
            assert code == 0, (home / f"{name}-alone.log").read_text()
            seconds[name], alone[name] = time.monotonic() - begin, results(folder)
            steps[name] = list(range(1, 1 + int((home / f"{name}-alone.steps").read_text())))
            print(f"{name}: {seconds[name]:.1f} s, {len(steps[name])} steps of writing", flush=True)
            draw.shuffle(steps[name])
        while tally.kills < kills or (every and any(steps.values())):
            name = methods[tally.searches % len(methods)]
            folder, fatal = home / f"{name}-{tally.searches}", steps[name].pop() if steps[name] else 1
            times = [draw.uniform(0, seconds[name]) for _ in range(moments)]
            kill_until_done(name, folder, tally, times, fatal)
            tally.searches += 1
            if not tally.different:
                compare(folder, alone[name], tally)
            print(f"{folder.name}, first at step {fatal}: {tally.report()}", flush=True)
            if tally.different or tally.lost:
                break
            shutil.rmtree(folder)
    return tally


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moments", type=int, default=4, help="random kills of a search after the first")
    parser.add_argument(
        "--every", action="store_true", help="go on until searches were killed at every step of writing"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    outcome = run(options.kills, options.seed, options.methods, options.moments, options.every)
    sys.exit(bool(outcome.lost or outcome.different))
