"""The selectors' benchmark: what it compares is right, its command runs, its page is that of its results.

The batched loops are also held to what makes them fast on a device: no step waits for it.
"""

import gc
import importlib
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from vispco.selectors import REGISTRY
from vispco.selectors.cdpruner import greedy_dpp
from vispco.selectors.covering import farthest_points, seed_gaps, unit_rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "selectors"
RESULTS = FOLDER / "results" / "overhead_cpu.json"


@pytest.fixture
def overhead(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    gc.freeze()  # or every timed call would look through all that other tests have left
    yield importlib.import_module("experiments.selectors.overhead")
    torch.set_num_threads(threads)
    gc.unfreeze()


def counted(method, counts):
    def call(tensor, *args):
        counts[method.__name__] += 1
        return method(tensor, *args)

    return call


class Waits(TorchDispatchMode):
    """Counts operations for which Python waits for the device: numbers read out, and shapes that depend on data."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        moved = name == "_to_copy" and (kwargs or {}).get("device") is not None
        masked = name.startswith("index") and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_iter(args[1])
        )
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal") or moved or masked:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def waits(call):
    with pytest.MonkeyPatch.context() as patched, Waits() as mode:
        for name in ("tolist", "cpu", "numpy"):  # which a tensor that is on a CPU does without any operation
            patched.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name), mode.counts))
        call()
    return mode.counts


def farthest(points, valid, steps):
    unit = unit_rows(points, valid)
    return farthest_points(unit, seed_gaps(unit, valid), steps)


def dpp(points, valid, steps):
    return greedy_dpp(points, points.square().sum(dim=-1), valid, steps)


@pytest.mark.parametrize("loop", [farthest, dpp])
def test_no_step_of_a_batched_loop_waits_for_the_device(loop):
    points = torch.randn(3, 120, 16, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(120) < torch.tensor([[120], [110], [101]])
    few, many = (waits(lambda steps=steps: loop(points, valid, steps)) for steps in (10, 100))
    assert few == many
    assert few.total() <= 1  # signals that are not numbers are refused once, before the first step


def test_waits_are_seen_where_there_are_some():
    values = torch.arange(5.0)
    assert waits(lambda: values[0].item()).total() == 1
    assert waits(lambda: bool(values[1] > 0)).total() >= 1
    assert waits(lambda: max(values.tolist())).total() >= 1
    assert waits(lambda: values.nonzero()).total() == 1
    assert waits(lambda: values[values > 1]).total() >= 1
    assert waits(lambda: values.argmax(dim=0, keepdim=True)).total() == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_loops_over_samples_pick_what_the_batched_ones_pick(overhead, batch):
    points = torch.randn(batch, 60, 8, generator=torch.Generator().manual_seed(1))
    relevance = torch.rand(batch, 60, generator=torch.Generator().manual_seed(2))
    for method, variants in overhead.LOOPS.items():
        # Rank 8 of a DPP's kernel: beyond that many picks nothing is gained, and the published loop picks at random.
        steps = 7 if method == "DPP" else 20
        picks = variants["ours"](points, relevance, steps)
        for name in variants.keys() - {"ours", "tokens"}:
            assert variants[name](points, relevance, steps).equal(picks), (method, name)


def test_loops_over_tokens_take_the_steps_that_they_are_timed_for(overhead):
    points = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(3))
    relevance = torch.rand(2, 50, generator=torch.Generator().manual_seed(4))
    dpp_picks = overhead.LOOPS["DPP"]["tokens"](points, relevance, 9)
    assert dpp_picks == overhead.LOOPS["DPP"]["ours"](points, relevance, 2)[0].tolist()
    farthest_picks = overhead.LOOPS["farthest points"]["tokens"](points, relevance, 9)
    unit = torch.nn.functional.normalize(points, dim=-1)
    gaps = torch.full((2, 50), 4.0)
    gaps[:, 0] = torch.inf
    assert farthest_picks == farthest_points(unit, gaps, 3)[0].tolist()


def test_random_signals_have_the_shapes_of_the_engines(overhead):
    preset = overhead.PRESETS["rehearsal"]
    prompt = preset.prompts[1]
    drawn = overhead.random_signals(prompt.tokens, preset)
    with torch.no_grad(), overhead.scene(*overhead.build(preset, prompt)) as scene:
        given = scene.signals(overhead.Everything())
    for name, value in vars(given).items():
        assert value is not None, name
        assert getattr(drawn, name).shape == value.shape, name
        assert getattr(drawn, name).dtype == value.dtype, name


def test_signals_of_a_stopped_forward_are_those_of_the_whole_one(overhead, monkeypatch):
    preset = overhead.PRESETS["rehearsal"]
    seen = {}

    class Spy(overhead.Everything):
        def score(self, inputs):
            seen.update(vars(inputs))
            return inputs.last_row

    model, inputs = overhead.build(preset, preset.prompts[0])
    layers = model.config.get_text_config().num_hidden_layers
    keep = (1.0,) * overhead.CUT + (overhead.KEEP,) * (layers - overhead.CUT)
    config = overhead.PruningConfig(
        selector="spy", keep=keep, model=overhead.ModelCard(type=model.config.model_type, layers=layers)
    )
    monkeypatch.setitem(REGISTRY, "spy", Spy)
    with torch.no_grad():
        with overhead.prune(model, config):
            model(**inputs, logits_to_keep=1)
        with overhead.scene(model, inputs) as scene:
            first = scene.signals(overhead.make_selector("dart"))
            again = scene.signals(overhead.make_selector("fastv"))
            found = vars(scene.signals(overhead.Everything()))
    assert first.keys is not None
    assert first.normed is not None
    assert again.last_row is not None
    assert again.keys is None  # what one selector needs is not left for the next
    assert again.normed is None
    for name, value in seen.items():
        assert found[name].equal(value), name


def test_calls_take_turns_and_what_is_slow_is_called_once(overhead, monkeypatch):
    log, lasts = [], {"stock": 9.0, "fast": 1.0, "slow": 5.0}
    calls = {name: lambda name=name: log.append(name) for name in lasts}

    def seconds(call, device):
        call()
        return {"cpu": lasts[log[-1]], "wall": 0.0}

    monkeypatch.setattr(overhead, "seconds", seconds)
    times = overhead.time_rounds(calls, "cpu", 3)
    assert log == ["stock", "fast", "slow", "stock", "fast", "fast", "stock", "stock", "fast"]
    assert times == {"stock": [9.0] * 3, "fast": [1.0] * 3, "slow": [5.0]}
    assert overhead.ratio(times["slow"], [4.0, 5.0, 20.0]) == {"value": 1.0}


def test_the_exponent_is_the_slope_between_logarithms(overhead):
    assert overhead.exponent([720, 1440, 2880], [3 * n**1.7 for n in (720, 1440, 2880)]) == pytest.approx(1.7)
    assert overhead.exponent([1, 2, 4], [1.0, 2.0, 2.0]) == pytest.approx(0.5)


def test_what_would_not_fit_into_memory_has_a_row_that_says_so(overhead, monkeypatch):
    monkeypatch.setattr(overhead, "MEMORY", -1)
    with torch.no_grad():
        parts = overhead.measure_overhead(overhead.PRESETS["rehearsal"])
    assert all(row["choose"] for row in parts[0]["rows"])
    assert all(row["choose"] is None and "not run" in row["reason"] for row in parts[1]["rows"])
    assert overhead.overhead_table(parts).count("not run") == len(REGISTRY)


def test_the_command_measures_every_selector_and_writes_the_page(overhead, tmp_path):
    out = tmp_path / "results" / "rehearsal.json"
    overhead.main(["--preset", "rehearsal", "--out", str(out)])
    text = out.read_text()
    results = json.loads(text)
    assert str(ROOT) not in text
    for part in (*results["overhead"], results["growth"]):
        assert [row["selector"] for row in part["rows"]] == list(REGISTRY)
    tables = overhead.tables(results)
    assert all(tables[name].count(f"| {selector} |") == 1 for name in ("overhead", "growth") for selector in REGISTRY)


@pytest.mark.skipif(not RESULTS.exists(), reason="no results committed")
def test_the_page_shows_the_committed_results(overhead):
    page = importlib.import_module("experiments.selectors.page")
    text, results = overhead.PAGE.read_text(), json.loads(RESULTS.read_text())
    tables = overhead.tables(results)
    assert all(table in text for table in tables.values())
    assert page.fill(text, tables) == text
    assert results["preset"] == "cpu"
    assert results["environment"]["threads"] == 1
    assert [part["visual tokens"] for part in results["overhead"]] == [576, 2880, 10_000]
    assert results["growth"]["visual tokens"] == [720, 1440, 2880, 5760]
    for part in (*results["overhead"], results["growth"]):
        assert {row["selector"] for row in part["rows"]} <= set(REGISTRY)


@pytest.mark.skipif(not RESULTS.exists(), reason="no results committed")
def test_mob_grows_linearly_in_the_committed_results(overhead):
    rows = {row["selector"]: row for row in json.loads(RESULTS.read_text())["growth"]["rows"]}
    assert 0.8 < rows["mob"]["exponent"]["choose"] < 1.2
    assert rows["topv"]["exponent"]["choose"] > 1.5  # so that the fit can tell
