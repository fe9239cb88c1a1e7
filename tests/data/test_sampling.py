"""Which rows are drawn: all equally likely, or equally many per doubling of a measure."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import picture

import vispco.data.sampling as module
from vispco.data import Picture, Row
from vispco.errors import DataError


def rows(measures):
    """Rows whose pictures are their measures."""
    return [(n, Row(str(n), f"t, line {n}", Picture(str(m).encode()), "q", ("a",))) for n, m in enumerate(measures)]


def measure(picture):
    return int(picture.encoded)


def random(measures, count, seed=0):
    return [int(row.index) for row in module.draw_random(iter(rows(measures)), count, seed)]


def balanced(measures, count, seed=0):
    return [int(row.index) for row in module.draw_balanced(iter(rows(measures)), count, seed, measure)]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 40), st.integers(1, 50), st.integers(-5, 5))
def test_random_is_without_replacement_and_repeatable(available, count, seed):
    drawn = random([1] * available, count, seed)
    assert len(drawn) == len(set(drawn)) == min(count, available)
    assert drawn == random([1] * available, count, seed)
    # A longer sample begins with the shorter one, and is in one random order of all rows.
    assert random([1] * available, 1000, seed)[: len(drawn)] == drawn


def test_random_is_fair():
    """Each of 20 rows is among 5 in a quarter of 2,000 draws, and in all places alike; five standard deviations."""
    draws = [random([1] * 20, 5, seed) for seed in range(2000)]
    often = Counter(index for drawn in draws for index in drawn)
    assert set(often) == set(range(20))
    assert max(abs(often[index] - 500) for index in range(20)) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    first = np.mean([drawn[0] for drawn in draws])
    assert abs(first - 9.5) < 5 * (399 / 12 / 2000) ** 0.5


def test_a_table_sorted_by_kind_gives_a_mixed_beginning():
    """Searches look at the first samples only; these must not be those of one kind."""
    beginning = random(range(1000), 400)[:40]
    assert abs(np.mean(beginning) - 499.5) < 4 * 289 / 40**0.5


MEASURES = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


@settings(deadline=None, max_examples=150)
@given(MEASURES, st.integers(1, 80), st.integers(0, 3))
def test_bins_are_equal_and_none_is_repeated_without_need(measures, count, seed):
    drawn = balanced(measures, count, seed)
    assert len(drawn) == min(count, len(measures))
    sizes = Counter(int(np.log2(m)) for m in measures)
    got = Counter(int(np.log2(measures[index])) for index in drawn)
    numbers = [got[place] for place in sizes]
    assert max(numbers) - min(numbers) <= 1
    fullest = sorted(sizes.values(), reverse=True)
    more = sorted((sizes[place] for place in sizes if got[place] == max(numbers)), reverse=True)
    assert more == fullest[: len(more)], "what does not divide goes to the fullest bins"
    often = Counter(drawn)
    for place, size in sizes.items():
        each = [often[index] for index, m in enumerate(measures) if int(np.log2(m)) == place]
        assert max(each) - min(each) <= 1, "some are taken again before others are taken"
        assert sum(1 for number in each if number) == min(size, got[place])


def test_balanced_by_hand():
    """Six small, one large and two huge pictures; nine samples of three bins are three each."""
    drawn = balanced([4, 5, 6, 7, 4, 5, 64, 1000, 1023], 9)
    often = Counter(drawn)
    assert sum(often[index] for index in range(6)) == 3
    assert max(often[index] for index in range(6)) == 1
    assert often[6] == 3
    assert sorted((often[7], often[8])) == [1, 2]


def test_rows_are_repeated_in_turn():
    """Two bins of seven each; the second has two rows, which are taken three and four times."""
    often = Counter(balanced([4] * 12 + [64, 65], 14))
    assert sorted((often[12], often[13])) == [3, 4]


def test_one_bin_is_all_rows_once():
    assert sorted(balanced([8, 9, 15, 8], 10)) == [0, 1, 2, 3]
    assert balanced([], 3) == []


def test_a_balanced_sample_is_mixed():
    """Its beginning has all bins, though one has many rows to choose from and the other few."""
    drawn = balanced([1] * 900 + [100] * 100, 200)
    beginning = sum(index >= 900 for index in drawn[:60])
    assert abs(beginning - 30) < 5 * (60 / 4) ** 0.5


def test_no_more_rows_are_held_than_are_asked_for():
    """Bins that come late take room from the others."""
    alive = 0

    class Counted(Row):
        def __init__(self, *arguments):
            nonlocal alive
            super().__init__(*arguments)
            alive += 1

        def __del__(self):
            nonlocal alive
            alive -= 1

    most = 0

    def stream():
        nonlocal most
        for number in range(1500):
            most = max(most, alive)
            yield number, Counted(str(number), "t", Picture(str(2 ** (number // 100)).encode()), "q", ("a",))

    module.draw_random(stream(), 50, 0)
    assert most <= 50 + 3
    most = 0
    module.draw_balanced(stream(), 50, 0, measure)
    assert most <= 50 + 15 + 3


def test_a_measure_that_cannot_be_told():
    def refuse(picture):
        raise ValueError("too narrow")

    with pytest.raises(DataError, match=r"^t, line 0: too narrow$"):
        module.draw_balanced(iter(rows([1])), 1, 0, refuse)


def test_area_is_in_pixels():
    assert module.area(Picture(picture((7, 5)))) == 35


@pytest.mark.parametrize("hashes", ["1", "2"])
def test_the_same_in_every_process(hashes):
    """What Python's own hash depends on has no say. The file is loaded alone, which is quick."""
    folder = Path(__file__).parents[2] / "vispco" / "data"
    code = (
        "import importlib.util, json, sys, types\n"
        "for name in ('vispco', 'vispco.data'): sys.modules[name] = types.ModuleType(name)\n"
        "def load(name, file):\n"
        "    spec = importlib.util.spec_from_file_location(name, file)\n"
        "    module = importlib.util.module_from_spec(spec)\n"
        "    sys.modules[name] = module\n"
        "    spec.loader.exec_module(module)\n"
        "    return module\n"
        f"load('vispco.errors', {str(folder.parent / 'errors.py')!r})\n"
        f"samples = load('vispco.data.samples', {str(folder / 'samples.py')!r})\n"
        f"sampling = load('vispco.data.sampling', {str(folder / 'sampling.py')!r})\n"
        "pictures = [samples.Picture(str(n + 1).encode()) for n in range(300)]\n"
        "rows = [(n, samples.Row(str(n), 't', each, 'q', ('a',))) for n, each in enumerate(pictures)]\n"
        "drawn = [sampling.draw_random(rows, 20, 5), sampling.draw_balanced(rows, 20, 5, lambda p: int(p.encoded))]\n"
        "print(json.dumps([[row.index for row in each] for each in drawn]))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hashes}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = [random([1] * 300, 20, 5), balanced(range(1, 301), 20, 5)]
    assert [[int(index) for index in each] for each in json.loads(said.stdout)] == here


def test_every_seed_is_another_sample():
    assert len({tuple(sorted(random([1] * 100, 10, seed))) for seed in range(20)}) == 20
    assert all(first != second for first, second in pairwise(balanced([1] * 100, 10, seed) for seed in range(5)))
