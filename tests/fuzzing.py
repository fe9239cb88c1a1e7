"""Damages good files and reads them: every outcome is success or one typed error.

    python tests/fuzzing.py --inputs 1000000                # all readers, by their shares
    python tests/fuzzing.py --reader tsv --inputs 50000 --seed 3 --keep /tmp/faults

An input that is refused for a reason not seen before becomes one that others are made of, so that the search goes
deeper than the first check. The exit code is 1 if anything but a VispcoError came out, a reader took longer than
``--seconds``, or a file was left.
"""

import argparse
import contextlib
import faulthandler
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from fuzz_inputs import damaged
from fuzz_readers import READERS

from vispco.errors import VispcoError

POOL = 400
"""Inputs that others are made of, at most."""


MEMORY = Path("/dev/shm")
"""Where files are quickest, if the system has it."""


class Hang(BaseException):
    """A reader does not come back; no Exception, so that none of them takes it for damage."""


def fuzz(reader, inputs, seed, seconds=60.0):
    """Read damaged files.

    Returns
    -------
    accepted : int
    faults : dict of str to (description, input)
        By what tells faults apart: their type and where they were raised.
    """
    chance, pool, seen = random.Random(seed), list(reader.seeds()), set()
    good, longest, accepted, faults = len(pool), 2 * max(map(len, pool)) + 1000, 0, {}
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place, _deadline():
        folder = Path(place)
        for name, content in reader.beside.items():
            (folder / name).write_bytes(content())
        for number in range(inputs):
            origin = chance.choice(pool[:good] if chance.random() < 0.5 else pool)
            content = pool[number] if number < good else damaged(chance, origin, pool)
            refused, fault = attempt(reader, folder, content, seconds)
            accepted += refused is None and fault is None
            if fault:
                faults.setdefault(fault.splitlines()[0], (fault, content))
            told = re.sub(r"'.*'|[0-9]+", "", refused or "")[:160]
            if told not in seen and len(pool) < POOL and len(content) < longest:
                seen.add(told)
                pool.append(content)
    return accepted, faults


def attempt(reader, folder, content, seconds=60.0):
    """Why a file is refused, and what is wrong with how; None each if it is read or nothing is."""
    (folder / reader.file).write_bytes(content)
    before, refused, fault = set(folder.iterdir()), None, None
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        reader.read(folder)
    except VispcoError as error:
        refused = f"{type(error).__name__} {error}"
    except Hang:
        fault = f"Hang: no end after {seconds:g} s\n{traceback.format_exc()}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and panics of compiled code are no refusals either
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        fault = f"{type(error).__name__} at {place}: {str(error)[:200]!r}\n{traceback.format_exc()}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    left = {path.name for path in set(folder.iterdir()) - before}
    if left and not fault:
        fault = f"left: {', '.join(sorted(left))}"
    for name in left:
        (folder / name).unlink()
    return refused, fault


@contextlib.contextmanager
def _deadline():
    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="in total (100000)")
    parser.add_argument("--reader", choices=READERS, action="append", help="only this one; may be given several times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="that one input may take (60)")
    parser.add_argument("--keep", type=Path, help="folder for inputs that showed a fault")
    options = parser.parse_args()
    chosen = {name: READERS[name] for name in options.reader or READERS}
    whole = sum(reader.share for reader in chosen.values())
    total = Counter()
    faulthandler.enable()
    for name, reader in chosen.items():
        inputs, began = round(options.inputs * reader.share / whole), time.monotonic()
        accepted, faults = fuzz(reader, inputs, options.seed, options.seconds)
        total.update(inputs=inputs, accepted=accepted, faults=len(faults))
        print(
            f"{name:18} {inputs:8} inputs {accepted:8} accepted {inputs - accepted:8} refused {len(faults):3} faults "
            f"{time.monotonic() - began:8.1f} s",
            flush=True,
        )
        for number, (fault, content) in enumerate(faults.values()):
            print(fault, flush=True)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{name}-{number}-{reader.file}").write_bytes(content)
    print(f"seed {options.seed}: {total['inputs']} inputs, {total['accepted']} accepted, {total['faults']} faults")
    return int(total["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())
