"""Limits on other costs: what fits, what is refused, and the constraints that a search sees."""

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig

from vispco.cost import DecodeFlopCost, FlopCost, KvCost, PeakCost, Workload, check_cost, make_cost, make_costs
from vispco.errors import BudgetError, ConfigError
from vispco.search.space import fit_to_budget
from vispco.search.starts import stretch

MODEL = LlamaConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64,
)  # fmt: skip
SAMPLES = [(7, 160), (9, 160), (30, 90)]
EARLY, LATE = (1.0, 0.2, 0.2, 0.2), (1.0, 1.0, 1.0, 0.1)


@pytest.fixture
def kv():
    return KvCost(MODEL, SAMPLES, torch.float32)


@pytest.fixture
def cost(kv):
    return FlopCost(MODEL, SAMPLES).within({kv: 0.5})


def test_a_schedule_has_to_fit_the_budget_and_every_limit(cost, kv):
    assert kv.exact(EARLY) < 0.5 < kv.exact(LATE)
    for keep in (EARLY, LATE):
        spent = cost.exact(keep)
        assert cost.fits(keep, spent + 1e-9) == (keep is EARLY)
        assert not cost.fits(keep, spent - 1e-9)
        assert cost.exact_excess(keep, 0.4) == [spent - 0.4, kv.exact(keep) - 0.5]
        assert cost.allows({"kv": kv.exact(keep)}) == (keep is EARLY)


def test_the_cost_itself_is_not_changed_by_limits(cost):
    plain = FlopCost(MODEL, SAMPLES)
    assert cost.exact(LATE) == plain.exact(LATE)
    assert plain.limits == {}
    [(alone, limit)] = cost.of(SAMPLES[:1]).limits.items()
    assert (alone.tokens, limit) == (SAMPLES[:1], 0.5)


def test_soft_constraints_are_those_of_whole_tokens(cost, kv):
    """Ratios that leave whole tokens of every sample, whose question is not rounded."""
    ratios = torch.tensor([[1.0, 0.5, 0.5, 0.1], [1.0, 1.0, 0.2, 0.2]], requires_grad=True)
    budgets = torch.tensor([0.6, 0.3])
    excess = cost.excess(ratios, budgets)
    exact = [cost.exact_excess(keep, budget) for keep, budget in zip(ratios.tolist(), (0.6, 0.3), strict=True)]
    torch.testing.assert_close(excess, torch.tensor(exact, dtype=torch.float64), atol=1e-7, rtol=0)
    slopes = torch.autograd.grad(excess[0, 1], ratios)[0]
    per_token = kv.soft_held(torch.ones(4, 3, dtype=torch.float64)) - kv.soft_held(
        torch.zeros(4, 3, dtype=torch.float64)
    )
    expected = (per_token * kv.visual * torch.tensor(kv.weights)).sum(dim=1) / kv.unpruned
    torch.testing.assert_close(slopes[0].double(), expected, atol=1e-6, rtol=0)
    assert slopes[1].eq(0).all()


def test_schedules_per_sample_are_held_in_their_mean(cost):
    ratios = torch.rand(2, 3, 4).sort(dim=-1, descending=True).values
    excess = cost.excess(ratios, torch.tensor([0.5, 0.5]))
    assert excess.shape == (2, 2)
    torch.testing.assert_close(excess[0], cost.excess(ratios[0], torch.full((3,), 0.5)).mean(dim=0))


@pytest.mark.parametrize("budget", [0.9, 0.6, 0.35])
def test_fitting_meets_whichever_constraint_is_tight(cost, kv, budget):
    for schedule in ((1.0, 0.8, 0.8, 0.1), (1.0, 0.9, 0.5, 0.4)):
        keep = fit_to_budget(schedule, cost, budget)
        assert cost.fits(keep, budget)
        assert max(cost.exact_excess(keep, budget)) > -0.01, "neither the budget nor the limit is used up"
    tight = [limit > -0.01 for limit in cost.exact_excess(keep, budget)]
    assert tight == ([False, True] if budget > 0.5 else [True, False])


def test_stretching_meets_the_tight_constraint(cost):
    schedules = torch.tensor([[1.0, 0.8, 0.8, 0.1], [1.0, 0.9, 0.5, 0.4]], dtype=torch.float64)
    for budget in (0.9, 0.35):
        worst = cost.excess(stretch(schedules, cost, budget), torch.tensor([budget] * 2)).amax(dim=1)
        assert (worst.abs() < 1e-6).all()


def test_what_cannot_be_reached_is_refused_by_name(cost, kv):
    floor = (1.0, 1e-6, 1e-6, 1e-6)
    cost.check_budget(0.5, floor)
    with pytest.raises(BudgetError, match=rf"budget 0.01 of kv cannot .* from {kv.exact(floor):.3f} .* to 1\.000"):
        FlopCost(MODEL, SAMPLES).within({kv: 0.01}).check_budget(0.5, floor)


def test_choosing_that_costs_more_than_it_saves_leaves_the_unpruned_model():
    dear = FlopCost(MODEL, SAMPLES, lambda cut: 9 * cut.shape.layer(cut.tokens))
    floor = (1.0, 1e-6, 1e-6, 1e-6)
    assert dear.exact(floor) > 1.0
    assert dear.reachable(floor) == (1.0, 1.0)


def test_costs_by_name():
    work = Workload(MODEL, SAMPLES)
    assert set(make_costs(work)) == {"flops", "decode_flops", "kv", "peak"}
    for name, cost in make_costs(work).items():
        assert cost.name == name
        assert cost.exact((1.0,) * 4) == 1.0
        assert float(cost.soft(torch.ones(4))) == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(ConfigError, match="cost 'time' is unknown; choose one of flops, "):
        check_cost("time")
    for name in ("latency", "generation"):
        with pytest.raises(ConfigError, match="time cannot be counted; make a table with `vispco profile`"):
            make_cost(name, work)


def test_costs_by_name_are_told_all_they_depend_on():
    keep = (1.0, 0.7, 0.5, 0.2)
    costs = make_costs(Workload(MODEL, SAMPLES, torch.bfloat16, selection=3, new_tokens=5))
    assert costs["flops"].amount(keep) == FlopCost(MODEL, SAMPLES, 3).amount(keep)
    assert costs["decode_flops"].amount(keep) == DecodeFlopCost(MODEL, SAMPLES, 5).amount(keep)
    assert costs["kv"].amount(keep) == KvCost(MODEL, SAMPLES, torch.bfloat16).amount(keep)
    assert costs["peak"].amount(keep) == PeakCost(MODEL, SAMPLES, torch.bfloat16).amount(keep)


@pytest.mark.parametrize("kind", [KvCost, PeakCost])
def test_bytes_with_sliding_windows_are_soft_and_exact_alike(kind):
    config = Gemma3TextConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, vocab_size=64, sliding_window=50, layer_types=["sliding_attention"] * 5 + ["full_attention"],
    )  # fmt: skip
    cost = kind(config, [(10, 100)], torch.bfloat16)
    for keep in ((1.0, 1.0, 0.5, 0.5, 0.2, 0.2), (1.0, 0.3, 0.3, 0.3, 0.3, 0.1)):
        assert float(cost.soft(torch.tensor(keep))) == pytest.approx(cost.exact(keep), rel=1e-6)
    kv = KvCost(config, [(10, 100)], torch.bfloat16)
    assert kv.held(kv.prompts[0], [100, 100, 50, 30, 20, 20]) == [64 * n for n in (49, 49, 49, 40, 30, 30)]
