"""The benchmark of a search step: all ways compute one gradient, and its command measures every case."""

import gc
import importlib
import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "search_step"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("experiments.search_step.benchmark")
    gc.unfreeze()


def test_all_ways_compute_one_gradient(benchmark):
    shape = {**benchmark.SHAPE, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    bench = benchmark.Bench(6, 10, 2, {**shape, "intermediate_size": 48})
    keep = benchmark.SCHEDULES["0.6"]
    one, *others = (bench.step(keep, 0.1, way) for way in benchmark.WAYS)
    assert (one[2:] != 0).all()
    for other in others:
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)


def test_the_command_measures_every_case(benchmark, tmp_path):
    out = tmp_path / "results.json"
    benchmark.main(["--rehearsal", "--rounds", "1", "--out", str(out)])
    results = json.loads(out.read_text())
    assert len(results["cases"]) == 2 + len(benchmark.SCHEDULES) * (len(benchmark.WAYS) + 1)
    assert all(case["time"][0] > 0 for case in results["cases"])
    by_way = {case["way"]: case["memory"] for case in results["cases"] if case.get("temperature") == 0.1}
    assert by_way["parts, MLPs twice"] < by_way["parts"]


def test_the_page_has_the_table_of_the_results(benchmark):
    table = benchmark.table(json.loads((FOLDER / "results.json").read_text()))
    assert table in (FOLDER / "README.md").read_text()
