"""At real scale costs equal what PyTorch's counter sees on the meta device, and a wrong term would be seen."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vispco.cost import DecoderShape, FlopCost, KvCost
from vispco.errors import BudgetError

ROOT = Path(__file__).parents[2]
NAMES = (
    "LLaVA-1.5-7B", "LLaVA-1.5-13B", "LLaVA-NeXT-7B", "Qwen2-VL-7B", "Qwen2.5-VL-3B", "Qwen2.5-VL-7B", "Gemma3-4B",
    "Video-LLaVA-7B",
)  # fmt: skip


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.latency.real_scale")


def shallow(shape, layers=6):
    """The real width with fewer layers."""
    return replace(shape, text={**shape.text, "num_hidden_layers": layers})


def one_plan(study):
    return {"one cut at layer 2": study.PLANS["one cut at layer 2"]}


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_what_the_counter_sees(study, name):
    whole, pruned = study.measure(study.SHAPES[name], (0.5,), one_plan(study))["rows"]
    for row in (whole, pruned):
        assert row["prefill over counter"] == pytest.approx(1, abs=1e-3)
        assert row["decode over counter"] == pytest.approx(1, abs=1e-3)
        assert row["KV bytes off"] == 0
        assert 0.8 <= row["peak over account"] <= 1.001
    assert 0.49 < pruned["prefill ratio"] <= 0.5
    assert pruned["last tokens"] < pruned["mean tokens kept"]


@pytest.mark.parametrize("part", ["projections", "attention", "mlp_cost", "lm_head"])
def test_a_wrong_term_of_the_flops_is_seen(study, monkeypatch, part):
    right = getattr(DecoderShape, part)
    wrong = (lambda *known: 1.1 * right(*known)) if callable(right) else property(lambda self: 1.1 * right.fget(self))
    monkeypatch.setattr(DecoderShape, part, wrong)
    row = study.measure(shallow(study.SHAPES["LLaVA-NeXT-7B"], 2), (), {})["rows"][0]
    if part != "lm_head":  # one position of 2 992 is no thousandth of a prefill
        assert row["prefill over counter"] > 1.001
    assert row["decode over counter"] > 1.001


def test_a_wrong_window_is_seen(study, monkeypatch):
    right = KvCost.held
    monkeypatch.setattr(KvCost, "held", lambda *known: [each + (each == min(right(*known))) for each in right(*known)])
    assert study.measure(shallow(study.SHAPES["Gemma3-4B"]), (), {})["rows"][0]["KV bytes off"] == 5


def test_a_window_caps_the_cache_but_not_its_storage(study):
    """Transformers slices the keys of a sliding layer, and the slice holds on to all of them."""
    row = study.measure(shallow(study.SHAPES["Gemma3-4B"]), (), {})["rows"][0]
    assert row["KV storage over bytes"] == pytest.approx(6 * 1344 / (5 * 1023 + 1344))
    assert study.measure(shallow(study.SHAPES["LLaVA-1.5-7B"]), (), {})["rows"][0]["KV storage over bytes"] == 1.0


def test_plans_meet_their_budget_or_say_why_not(study):
    shape = study.SHAPES["LLaVA-1.5-7B"]
    for name, plan in study.PLANS.items():
        cost = FlopCost(shape.config, [shape.tokens], selection=plan.rows)
        for budget in (0.5, 0.3):
            keep = plan.at(budget, cost)
            assert budget - 0.01 < cost.exact(keep) <= budget, name
            assert list(keep) == sorted(keep, reverse=True)
        with pytest.raises(BudgetError, match=r"budget 0\.05 of flops cannot be reached"):
            plan.at(0.05, cost)
    assert [len(set(plan.keep(32, 0.5))) for plan in study.PLANS.values()] == [1, 2, 4]


def test_the_command_writes_a_row_for_every_schedule(study, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(study, "SHAPES", {"LLaVA-1.5-7B": shallow(study.SHAPES["LLaVA-1.5-7B"])})
    study.main(["--out", str(tmp_path / "results.json")])
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["shapes"][0]["rows"]
    assert [(row["budget"], row["plan"]) for row in rows] == [
        (1.0, "unpruned"), *((budget, plan) for budget in (0.5, 0.3) for plan in study.PLANS)
    ]  # fmt: skip
    # Two of six layers run on all tokens, so that 0.3 is out of reach for one plan.
    assert [row["plan"] for row in rows if "unreachable" in row] == ["one cut at layer 2"]
    printed = capsys.readouterr().out
    assert printed.count("LLaVA-1.5-7B") == 1 + len(rows)
    assert "out of reach" in printed


def test_committed_results_are_of_these_shapes(study):
    results = json.loads((ROOT / "experiments/latency/results/real_scale.json").read_text())
    assert [shape["name"] for shape in results["shapes"]] == list(NAMES)
    for shape in results["shapes"]:
        for row in shape["rows"]:
            assert row["prefill over counter"] == pytest.approx(1, abs=1e-3)
            assert row["KV bytes off"] == 0
    page = (ROOT / "experiments/latency/real_scale.md").read_text()
    assert study.table(results) in page
    assert study.checks(results) in page
