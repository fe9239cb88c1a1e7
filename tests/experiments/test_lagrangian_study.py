"""The study of the augmented Lagrangian runs in small, and its page is what results.json says."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from vispco.search.lagrangian import AugmentedLagrangian

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "lagrangian"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"experiments.{name}")


def test_starts_meet_their_budgets_and_schedules_fall(load):
    toy = load("lagrangian.toy")
    budget = torch.tensor(toy.BUDGETS, dtype=torch.float64)
    parts = toy.start(budget, falling=False)
    hard = toy.ratios(*parts, 1e6)
    assert (hard[:, 0] == 1).all()
    assert (toy.ratios(*parts, 3.0)[:, 0] == 1).all()
    assert (hard.diff(dim=1) <= 0).all()
    # The idle step keeps 98 % of the last layer; counting rounds to a 64th.
    torch.testing.assert_close(hard.mean(dim=1), budget, rtol=0, atol=0.02 / toy.LAYERS + 0.02)
    torch.testing.assert_close(toy.exact_cost(*parts), hard.mean(dim=1), rtol=0, atol=0.5 * toy.UNIT)


def test_a_schedule_is_moved_onto_its_budget(load):
    toy = load("lagrangian.toy")
    centres, logits = torch.tensor([[2.2, 5.4]] * 2).double(), torch.tensor([[0.3, -1.0], [2.0, 2.0]]).double()
    budget = torch.tensor([0.5, 0.4], dtype=torch.float64)
    hard = toy.at_budget(centres, logits, budget)
    torch.testing.assert_close(hard.mean(dim=1), budget)
    assert (hard[:, :2] == 1).all()
    assert (hard[:, 4] > hard[:, 5]).all()


@pytest.mark.parametrize("falling", [0.0, 0.6])
def test_targets_and_dual_steps_of_a_run(load, falling):
    toy = load("lagrangian.toy")
    scenario = toy.Scenario(steps=10, falling=falling)
    trace = toy.run(scenario, lambda n: AugmentedLagrangian(n, penalty=30.0), seeds=1)
    assert trace.excess.shape == trace.target.shape == (10, 8)
    assert trace.multiplier.shape == (3, 8)
    assert trace.target[0].tolist() == pytest.approx([1.0] * 8 if falling else toy.BUDGETS)
    assert trace.target[-1].tolist() == pytest.approx(toy.BUDGETS)
    plain = toy.run(scenario, lambda n: AugmentedLagrangian(n, penalty=30.0), seeds=1, step="none")
    assert plain.multiplier.abs().max() == 0
    assert trace.multiplier.max() > 0
    # One round at equal multipliers, then not.
    torch.testing.assert_close(plain.excess[:3], trace.excess[:3])
    soft = toy.run(scenario, lambda n: AugmentedLagrangian(n, penalty=30.0), seeds=1, step="soft")
    assert not torch.allclose(soft.multiplier, trace.multiplier)


def test_the_summary_by_hand(load):
    toy, study = load("lagrangian.toy"), load("lagrangian.study")
    excess = torch.tensor([[9.0, 9.0], [0.3, 0.0], [-0.1, 0.2]], dtype=torch.float64)
    zeros = torch.zeros(6, 2, dtype=torch.float64)
    trace = toy.Trace(excess, excess, zeros + torch.arange(6.0)[:, None], zeros + 30, torch.tensor([1.0, 2.0]))
    other = toy.Trace(excess, excess, zeros, zeros, torch.tensor([0.5, 1.0]))
    found = {name: value for name, (value, _, _) in study.summary(trace, other, seeds=1).items()}
    assert found == pytest.approx(
        {"violated": 0.5, "violation": 0.1, "slack": 0.05, "distance": 0.15, "loss": 0.75,
         "cost swing": 0.3, "multiplier swing": 1.0, "multiplier": 5.0, "rho": 30.0}
    )  # fmt: skip


def test_the_command_runs_and_fills_its_page(load, tmp_path, monkeypatch):
    study = load("lagrangian.study")
    monkeypatch.setattr(study, "SCENARIOS", {name: load("lagrangian.toy").Scenario(6, 0.0) for name in study.SCENARIOS})
    (tmp_path / "README.md").write_text((FOLDER / "README.md").read_text())
    study.main(["--seeds", "1", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(set(arms) == set(study.ARMS) for arms in results["scenarios"].values())
    assert results["scenarios"]["short"][study.REFERENCE]["loss"] == [0.0, 0.0, 0.0]
    assert (tmp_path / "results.png").stat().st_size > 0
    assert "1 seeds x 8 budgets" in (tmp_path / "README.md").read_text()


def test_the_page_shows_what_the_results_say(load):
    text, results = (FOLDER / "README.md").read_text(), json.loads((FOLDER / "results.json").read_text())
    blocks = load("lagrangian.tables").tables(results)
    assert load("selectors.page").fill(text, blocks) == text
    assert {name for _, name, _ in load("selectors.page").BLOCK.findall(text)} == set(blocks)
    assert results["config"]["seeds"] == load("lagrangian.study").SEEDS
