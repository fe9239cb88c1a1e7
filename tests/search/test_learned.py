"""The learned search: on a landscape with a known answer, and on the embedded model."""

from contextlib import nullcontext
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import build_tiny_llava

from vispco.cost import FlopCost
from vispco.data import load_samples
from vispco.engine import load_checkpoint, observed_attention
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator, Ledger, Quality
from vispco.kernels import make_kernel
from vispco.search import LearnedSearch, LearnedSettings, cheapest_schedule, fit_to_budget
from vispco.search import learned as module
from vispco.selectors import Knob, make_selector

LAYERS = 6
WEIGHTS = torch.tensor([0.0, 4.0, 0.2, 3.0, 0.1, 0.05], dtype=torch.float64)
"""Damage per layer of the toy: cutting for layer 1 or 3 hurts, so the best cuts are at 2 and 4 or later."""
BUDGETS = (0.8, 0.6, 0.5)


def toy_damage(ratios, alpha=0.7):
    """Damage of schedules (..., layers): what layers would have read, weighted, convex in the ratios; best at 0.7."""
    return (WEIGHTS * (1 - ratios.double()) ** 2).sum(dim=-1) * (1 + 4 * (alpha - 0.7) ** 2)


class ToySearch(LearnedSearch):
    """The search on the toy landscape instead of a model."""

    def relaxed_divergence(self, ratios, temperature, knobs):
        self.evaluator.ledger.add_forwards(len(ratios))
        return toy_damage(ratios, **knobs).float()


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(module, "observed_attention", lambda family: nullcontext())
    config = build_tiny_llava(layers=LAYERS).config
    cost = FlopCost(config, [(10, 100)])

    def under(name, params):
        def evaluate(schedules, limit=None):
            damages = [float(toy_damage(torch.tensor(schedule), params.get("alpha", 0.7))) for schedule in schedules]
            return [Quality(np.full(4, damage), np.zeros(4)) for damage in damages]

        return SimpleNamespace(
            evaluate=evaluate,
            share=under,
            replay=SimpleNamespace(layers=LAYERS, family=None),
            model=None,
            ledger=Ledger(),
            selector=make_selector(name, params),
            selector_name=name,
            selector_params=params,
        )

    return under("balanced_fastv", {}), cost


def make(toy, steps=2, report=None, steps_of_gradient=120, **options):
    settings = LearnedSettings(**{"steps": steps_of_gradient, "starts": 3, "probe_ratios": (0.5, 0.1), **options})
    return ToySearch(*toy, make_kernel("multistep", steps), BUDGETS, settings, report=report)


def best_two_cuts(cost, budget):
    """Brute force over both cut layers and a fine ladder of the first ratio; the second is set by the budget."""
    best = np.inf
    for first, second in combinations(range(1, LAYERS), 2):
        for ratio in np.linspace(0.02, 1.0, 50):
            for factor in (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.02):
                keep = (1.0,) * first + (ratio,) * (second - first) + (ratio * factor,) * (LAYERS - second)
                if cost.exact(keep) <= budget:
                    best = min(best, float(toy_damage(torch.tensor(keep))))
    return best


def test_it_reaches_the_known_optimum(toy):
    results = make(toy).run()
    assert [result.budget for result in results] == list(BUDGETS)
    for result in results:
        assert result.kl <= 1.1 * best_two_cuts(toy[1], result.budget)


def test_training_improves_on_its_starts(toy):
    trained, untrained = make(toy).run(), make(toy, lr=1e-9, centre_lr=1e-9).run()
    assert sum(result.kl for result in trained) < 0.99 * sum(result.kl for result in untrained)


def test_training_finds_a_better_split_of_a_bad_start(toy):
    """From even cuts at the right layers, as if nothing had been probed."""
    search = make(toy, steps_of_gradient=200)
    even = fit_to_budget((1.0, 1.0, 0.7, 0.7, 0.5, 0.5), toy[1], 0.6)
    start = search.kernel.encode(even, (2, 4))[None]
    before, after = (search.select(particles)[1] for particles in (start, search.train(start, torch.tensor([1]))))
    assert after.budget == before.budget == 0.6
    assert after.kl < 0.8 * before.kl


def test_budgets_hold_exactly_and_are_used(toy):
    for result in make(toy).run():
        spent = toy[1].exact(result.schedule)
        assert result.budget - 0.03 < spent <= result.budget
        assert result.kl == pytest.approx(float(toy_damage(torch.tensor(result.schedule))))


def test_starts_are_within_their_budgets_and_differ_in_their_cuts(toy):
    search = make(toy, starts=3)
    parameters, owner = search.choose_starts()
    assert owner.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    for row, index in zip(parameters, owner, strict=True):
        spent = toy[1].exact(search.kernel.harden(row, LAYERS).tolist())
        assert spent <= BUDGETS[index] + 0.02
    for index in range(3):
        cuts = {tuple(row[:2].round().tolist()) for row, owns in zip(parameters, owner, strict=True) if owns == index}
        assert len(cuts) >= 2


def test_budgets_near_the_cheapest_cost_get_a_schedule_too(toy):
    cost = toy[1]
    floor = cost.exact(cheapest_schedule(LAYERS))
    search = make(toy, steps_of_gradient=4)
    search.budgets = [floor + 1e-3]
    (result,) = search.run()
    assert floor <= cost.exact(result.schedule) <= floor + 1e-3


def test_the_soft_cost_ends_near_the_budget(toy):
    seen = []
    search = make(toy, report=seen.append)
    particles = search.train(*search.choose_starts())
    soft = toy[1].soft(search.kernel.ratios(particles, LAYERS, 10.0))
    assert len(particles) == 3
    np.testing.assert_allclose(soft.numpy(), BUDGETS, atol=0.06)
    assert [progress.step for progress in seen] == list(range(120))
    assert max(progress.multiplier for progress in seen) > 0
    assert seen[-1].violation < 0.05


def test_particles_stay_legal_and_the_worse_starts_are_given_up(toy):
    search = make(toy, starts=3, survivors=1, centre_lr=1.0)
    parameters, owner = search.choose_starts()
    particles = search.train(parameters, owner)
    assert (len(parameters), len(particles)) == (9, 3)
    assert (particles[:, :2] >= 1).all()
    assert (particles[:, :2] <= LAYERS - 1).all()


def test_a_knob_is_trained_with_the_schedule(toy):
    """From 0.5, where the toy's damage is 16 % more, to its optimum at 0.7; the schedule is found all the same."""
    fixed, trained = make(toy).run(), make(toy, tune=("alpha",)).run()
    for plain, result in zip(fixed, trained, strict=True):
        assert plain.knobs == {}
        assert result.knobs["alpha"] == pytest.approx(0.7, abs=0.02)
        assert result.kl == pytest.approx(plain.kl, rel=0.02)
        assert toy[1].exact(result.schedule) <= result.budget


def test_a_knob_stays_in_its_range(toy, monkeypatch):
    monkeypatch.setattr(ToySearch, "relaxed_divergence", lambda self, ratios, _, knobs: 5.0 - 4 * knobs["alpha"])
    starts, owner = make(toy, tune=("alpha",)).choose_starts()
    trained = make(toy, tune=("alpha",), steps_of_gradient=60).train(starts, owner)
    assert starts[:, -1].tolist() == [0.5] * len(starts)
    assert trained[:, -1].tolist() == [1.0] * len(trained)


def test_a_knob_starts_where_the_settings_say(toy):
    """In a range that is not 0..1, after a step of nothing."""
    search = make(toy, tune=("alpha",), steps_of_gradient=1, knob_lr=1e-9)
    search.knobs = {"alpha": Knob(0.2, 2.2)}
    starts, owner = search.choose_starts()
    assert search.train(starts, owner)[:, -1].tolist() == pytest.approx([0.5] * len(BUDGETS))


@pytest.mark.parametrize(
    ("selector", "knob", "message"),
    [
        ("balanced_fastv", "beta", "has no knob 'beta' to tune; its knobs: alpha"),
        ("feather", "stride", "knob 'stride' of selector feather has no gradient; tune it with search=tpe"),
    ],
)
def test_knobs_that_cannot_be_trained_are_refused(toy, selector, knob, message):
    with pytest.raises(ConfigError, match=message):
        make((toy[0].share(selector, {}), toy[1]), tune=(knob,))


def test_too_many_steps_are_refused(toy):
    with pytest.raises(ConfigError, match=r"kernel.steps = 6 is too many for 6 decoder layers; give 1..5"):
        make(toy, steps=6)


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    samples = load_samples("shapes", "validation", 32, cache=tmp_path_factory.mktemp("cache"))
    return Evaluator(*load_checkpoint("micro-llava"), samples)


def search_micro(evaluator, seed, **options):
    settings = LearnedSettings(
        **{"steps": 6, "batch": 4, "starts": 2, "probe_samples": 16, "select_samples": 32, **options}
    )
    kernel = make_kernel("multistep", 2)
    return LearnedSearch(evaluator, evaluator.cost(), kernel, (0.6, 0.4), settings, seed=seed)


def test_on_a_model_the_seed_decides(micro):
    first, again, other = (search_micro(micro, seed).run() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    for result in first:
        assert micro.cost().exact(result.schedule) <= result.budget


def test_the_ledger_is_charged_for_forward_and_backward(micro):
    """Two schedules that keep all: layer 0 once, the others twice for each schedule."""
    search = search_micro(micro, 0)
    micro.ledger.forwards = 0.0
    with observed_attention(micro.replay.family):
        search.relaxed_divergence(torch.ones(2, 8), 0.05, {})
    assert micro.ledger.forwards == pytest.approx(4 * (1 + 2 * 2 * 7) / 8)


def test_on_a_model_a_knob_is_trained_too():
    samples = load_samples("shapes", "validation", 32)
    evaluator = Evaluator(*load_checkpoint("micro-llava"), samples, "balanced_fastv", {"alpha": 0.6})
    results = search_micro(evaluator, 0, tune=("alpha",), knob_lr=0.2).run()
    assert any(abs(result.knobs["alpha"] - 0.6) > 1e-3 for result in results), "nothing was learned"
    for result in results:
        [quality] = evaluator.share("balanced_fastv", result.knobs).evaluate([result.schedule])
        assert result.kl == pytest.approx(float(quality.kl.mean())), "it was measured with the knob that it has"


def test_straight_through_masks_run_every_token(micro):
    search = search_micro(micro, 0, straight_through=True)
    micro.ledger.forwards = 0.0
    keep = torch.tensor([[1.0, 1.0, *[0.3] * 6]], requires_grad=True)
    with observed_attention(micro.replay.family):
        divergence = search.relaxed_divergence(keep, 0.05, {})
    divergence.sum().backward()
    assert micro.ledger.forwards == pytest.approx(4 * (1 + 2 * 7) / 8)
    assert keep.grad.isfinite().all()
    assert keep.grad[0, 2:].sum() < 0


def test_gradients_point_to_keeping_more(micro):
    search = search_micro(micro, 0, batch=16)
    keep = (1.0, 1.0, *[0.3] * 3, *[0.1] * 3)
    parameters = search.kernel.encode(keep, (2, 5))[None].requires_grad_()
    with observed_attention(micro.replay.family):
        divergence = search.relaxed_divergence(search.kernel.ratios(parameters, 8, 5.0), 0.05, {})
    divergence.sum().backward()
    assert parameters.grad[0, 2:].sum() < 0, "larger keep factors must lower the divergence"


def test_the_result_is_the_best_of_what_was_measured(micro):
    search = search_micro(micro, 0)
    early, late = (1.0, *[0.5] * 2, *[0.2] * 5), (1.0, 1.0, *[0.5] * 2, *[0.2] * 4)
    particles = torch.stack([search.kernel.encode(early, (1, 3)), search.kernel.encode(late, (2, 4))])
    results = search.select(particles)
    for result in results:
        rivals = [fit_to_budget(row, search.cost, result.budget) for row in search.kernel.harden(particles, 8).tolist()]
        kls = [float(quality.kl.mean()) for quality in micro.evaluate(rivals)]
        assert result.kl <= min(kls) + 1e-9
