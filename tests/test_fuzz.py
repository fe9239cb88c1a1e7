"""Whatever stands in a file, reading it is success or one typed error; `python tests/fuzzing.py` does this for long."""

import json
import random
import re
import time
from functools import partial

import fuzz_seeds as seeds
import pytest
from fuzz_inputs import damaged
from fuzz_readers import READERS, Reader
from fuzzing import attempt, fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.config import PruningConfig
from vispco.cost import LatencyTable
from vispco.errors import DataError, InputError
from vispco.frontier import read_points

pytestmark = pytest.mark.filterwarnings("ignore")  # torn lines are said, and Pillow says what it finds odd

SEED = 20_261
INPUTS = {"run, compared": 12, "run, exported": 50, "run, its settings": 40, "journal": 40, "predictor": 50}
"""Of readers that take milliseconds; 120 of the others."""


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name):
    print(f"seed {SEED}")
    accepted, faults = fuzz(READERS[name], INPUTS.get(name, 120), SEED)
    assert not faults, "\n".join(fault for fault, _ in faults.values())
    assert accepted, "good files are refused, so that nothing but the first check is tested"


# --- the harness sees what it looks for ------------------------------------------------------------------------------


def raises(error, folder):
    raise error


def leaves(folder):
    (folder / "half.tmp").write_text("")


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (partial(raises, KeyError("kl")), "KeyError at test_fuzz.py:"),
        (partial(raises, RecursionError("deep")), "RecursionError at test_fuzz.py:"),
        (partial(raises, SystemExit(2)), "SystemExit at test_fuzz.py:"),
        (lambda folder: time.sleep(5), "Hang: no end after 0.05 s"),
        (leaves, "left: half.tmp"),
        (partial(raises, DataError("it is broken")), None),
        (lambda folder: None, None),
    ],
)
def test_faults_are_seen(read, fault):
    accepted, faults = fuzz(Reader("f", lambda: [b"a"], read), 3, 0, seconds=0.05)
    found = list(faults)
    assert len(found) == (fault is not None)
    assert not fault or found[0].startswith(fault)
    assert accepted == (3 if read.__class__ is not partial and fault is None else 0)


def test_an_input_that_is_refused_for_a_new_reason_is_built_upon():
    """Three checks one after the other, the last of which fails: single changes to the first file do not reach it."""

    def read(folder):
        content = (folder / "f").read_bytes()
        for sign in (b"{", b"[", b'"'):
            if sign not in content:
                raise InputError(f"no {sign.decode()}")
        raise KeyError

    assert fuzz(Reader("f", lambda: [b"00000000"], read), 3000, 0)[1]


def test_the_same_seed_gives_the_same_inputs():
    files = seeds.configuration_files()
    first, second = ([damaged(random.Random(seed), files[0], files) for seed in range(200)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 150


# --- values that fit or nearly fit -----------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
KEEPS = st.lists(st.floats(-0.1, 1.1), min_size=4, max_size=4).map(lambda ratios: sorted(ratios, reverse=True))


def documents(file):
    """A good document in which one field has another value, that of a field deep down included."""
    good = json.loads(file)
    paths = [(name,) for name in good] + [
        (name, inner) for name, value in good.items() if isinstance(value, dict) for inner in value
    ]

    def changed(path, value):
        copy = json.loads(file)
        holder = copy
        for name in path[:-1]:
            holder = holder[name]
        holder[path[-1]] = value
        return copy

    return st.builds(changed, st.sampled_from(paths), VALUES | KEEPS)


def read_as(kind, folder, document):
    file = {"configuration": "best.json", "latency table": "latency.json", "points": "points.jsonl"}[kind]
    (folder / file).write_text(json.dumps(document) + "\n", encoding="utf-8")
    if kind == "points":
        return read_points(folder)
    return {"configuration": PruningConfig, "latency table": LatencyTable}[kind].load(folder / file)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("configuration", seeds.configuration_files()[0]),
        ("latency table", seeds.latency_tables()[0]),
        ("points", seeds.points_files()[0].split(b"\n")[0]),
    ],
)
def test_any_value_in_any_field(kind, file, tmp_path_factory):
    folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(documents(file))
    def check(document):
        refused, found = "", None
        try:
            found = read_as(kind, folder, document)
        except InputError as error:
            refused = str(error)
        if found is None:
            assert re.fullmatch(rf"{folder}/.*field .+: .+", refused), refused
        else:
            assert kind == "points" or type(found).from_json(found.to_json()) == found

    check()


@pytest.mark.parametrize("name", ["configuration", "points", "latency table", "tsv", "jsonl", "llava"])
def test_extremes(name, tmp_path):
    """Nothing, nothing but nesting, one endless line, the bytes of a program."""
    reader = READERS[name]
    for file, content in reader.beside.items():
        (tmp_path / file).write_bytes(content())
    program = b"\x7fELF" + bytes(range(256)) * 99
    for content in (b"", b"\0" * 10_000, b"[" * 300_000, b'{"a":' * 300_000, b"x" * 2_000_000, program):
        assert attempt(reader, tmp_path, content)[1] is None
