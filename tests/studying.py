"""A worker of a study for tests, with an objective that costs nothing: it can be run in a process of its own."""

import time
from pathlib import Path

import numpy as np

from vispco.search import Measured, SampledSearch, Space, open_storage
from vispco.selectors import Knob

SPACE = Space(6, 2, {"balanced_fastv": {"alpha": Knob(0, 1), "window": Knob(1, 8, whole=True)}})
WEIGHTS = np.array([0.0, 4.0, 0.2, 3.0, 0.1, 0.05])


def damage(proposal):
    """Cost, and a damage that is least at alpha = 0.7 and window = 3."""
    keep = np.array(proposal.schedule)
    wrong = 1 + 4 * (proposal.knobs["alpha"] - 0.7) ** 2 + 0.2 * abs(proposal.knobs["window"] - 3)
    return float(keep.mean()), float((0.1 + (WEIGHTS * (1 - keep) ** 2).sum()) * wrong)


def measure(number, proposal):
    cost, kl = damage(proposal)
    return Measured(cost, kl, 2.0, {"name": f"trial {number}"})


def make_search(sampler="tpe", where=None, *, trials=20, seed=0, budgets=(0.4, 0.9), space=SPACE, **options):
    return SampledSearch(
        sampler, space, budgets, trials=trials, seed=seed, storage=open_storage(where), study="shared", **options
    )


def wait_for(what, seconds=250):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def work(where, log, trials, quota, pause=0.0, **options):
    """A worker that notes every measurement in a file, and rests at number ``quota`` until there is a file "on".

    Measurements only begin when there is a file "go", so that all workers have their share.
    """
    log, done = Path(log), 0
    log.touch()

    def slowly(number, proposal):
        nonlocal done
        done += 1
        with log.open("a") as file:
            file.write(f"{number}\n")
        time.sleep(pause)
        if done == quota:
            wait_for((log.parent / "on").exists)
        return measure(number, proposal)

    search = make_search(where=where, trials=trials, **options)
    wait_for((log.parent / "go").exists)
    search.run(slowly)
