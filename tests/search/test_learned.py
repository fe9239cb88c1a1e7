"""The learned search: on a landscape with a known answer, and on the embedded model."""

from contextlib import nullcontext
from itertools import combinations
from types import SimpleNamespace

import moocore
import numpy as np
import pytest
import torch
from builders import build_tiny_llava

from vispco.cost import FlopCost, KvCost
from vispco.data import load_samples
from vispco.engine import load_checkpoint, observed_attention
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator, Ledger, Quality
from vispco.kernels import make_kernel
from vispco.search import LearnedSearch, LearnedSettings, fit_to_budget, monotone_schedules
from vispco.search import learned as module
from vispco.selectors import Knob, make_selector
from vispco.state import State

LAYERS = 6
WEIGHTS = torch.tensor([0.0, 0.4, 0.02, 0.3, 0.01, 0.005], dtype=torch.float64)
"""Loss per layer of the toy: cutting for layer 1 or 3 hurts, so the best cuts are at 2 and 4 or later."""
BUDGETS = (0.8, 0.6, 0.5)


def toy_loss(ratios, alpha=0.7):
    """Loss of schedules (..., layers): what layers would have read, weighted, convex in the ratios; best at 0.7."""
    weights = WEIGHTS[: ratios.shape[-1]]
    return (weights * (1 - ratios.double()) ** 2).sum(dim=-1) * (1 + (torch.as_tensor(alpha) - 0.7) ** 2)


class ToySearch(LearnedSearch):
    """The search on the toy landscape instead of a model."""

    def draw(self):
        return None, None

    def relaxed_loss(self, batch, ratios, temperature, knobs):
        self.evaluator.ledger.add_forwards(len(ratios))
        return toy_loss(ratios, **knobs).float()[:, None]


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(module, "observed_attention", lambda family: nullcontext())
    return make_toy(LAYERS)


def make_toy(layers):
    """An evaluator of the landscape, and the FLOPs of a model of so many layers."""
    config = build_tiny_llava(layers=layers).config
    cost = FlopCost(config, [(10, 100)])

    def under(name, params):
        def evaluate(schedules, limit=None):
            losses = [float(toy_loss(torch.tensor(schedule), params.get("alpha", 0.7))) for schedule in schedules]
            return [Quality(np.full(4, -np.log1p(-loss)), np.zeros(4)) for loss in losses]

        return SimpleNamespace(
            evaluate=evaluate,
            share=under,
            replay=SimpleNamespace(layers=layers, family=None),
            state=State(),
            model=None,
            ledger=Ledger(),
            selector=make_selector(name, params),
            selector_name=name,
            selector_params=params,
        )

    return under("balanced_fastv", {}), cost


@pytest.fixture(params=[False, True], ids=["rows", "predictor"])
def predictor(request):
    return request.param


def make(toy, steps=2, report=None, steps_of_gradient=120, budgets=BUDGETS, **options):
    settings = LearnedSettings(
        **{"steps": steps_of_gradient, "probe_ratios": (0.5, 0.1), "predictor": False, "anchors": 3, **options}
    )
    kernel = make_kernel("multistep", toy[0].replay.layers, steps)
    return ToySearch(*toy, kernel, budgets, settings, report=report)


def select(search, rows, owner):
    candidates = search.fit(rows, owner)
    return search.best(candidates, search.measure(sorted({choice for _, choice in candidates})))


def loss_of(result):
    return 1 - np.exp(-result.kl)


def best_two_cuts(cost, budget):
    """Brute force over both cut layers and a fine ladder of the first ratio; the second is set by the budget."""
    best = np.inf
    for first, second in combinations(range(1, LAYERS), 2):
        for ratio in np.linspace(0.02, 1.0, 50):
            for factor in (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.02):
                keep = (1.0,) * first + (ratio,) * (second - first) + (ratio * factor,) * (LAYERS - second)
                if cost.fits(keep, budget):
                    best = min(best, float(toy_loss(torch.tensor(keep))))
    return best


def test_it_reaches_the_known_optimum(toy, predictor):
    results = make(toy, predictor=predictor).run()
    assert [result.budget for result in results] == list(BUDGETS)
    for result in results:
        assert loss_of(result) <= 1.1 * best_two_cuts(toy[1], result.budget)


def test_its_frontier_has_the_hypervolume_of_brute_force(toy, predictor):
    """Four layers, five ratios: at the cost of every schedule of the front it finds one as good, or nearly so."""
    evaluator, cost = make_toy(4)
    schedules = np.array(monotone_schedules(4, (1.0, 0.75, 0.5, 0.25, 0.01)))
    losses = [[cost.exact(keep), float(toy_loss(torch.tensor(keep)))] for keep in schedules.tolist()]
    front = np.array([row for row, best in zip(losses, moocore.is_nondominated(losses), strict=True) if best])
    assert len(front) > 8
    results = make((evaluator, cost), steps=3, budgets=tuple(front[:, 0]), predictor=predictor).run()
    found = [[cost.exact(result.schedule), loss_of(result)] for result in results]
    worst = (1.0, float(front[:, 1].max()) * 1.01)
    assert moocore.hypervolume(found, ref=worst) >= 0.99 * moocore.hypervolume(front, ref=worst)


def test_limits_on_other_costs_are_held_and_the_optimum_under_them_is_found(toy, predictor):
    evaluator, cost = toy
    limited = cost.within({KvCost(cost.config, cost.tokens, torch.float32): 0.5})
    results = make((evaluator, limited), predictor=predictor).run()
    for result in results:
        assert limited.fits(result.schedule, result.budget)
        assert loss_of(result) <= 1.1 * best_two_cuts(limited, result.budget)
    over_budget, over_limit = limited.exact_excess(results[0].schedule, results[0].budget)
    assert over_budget < -0.05 < over_limit, "the largest budget is not what binds"


def test_every_limit_has_a_multiplier_that_answers_to_its_exact_cost(toy):
    evaluator, cost = toy
    limited = cost.within({KvCost(cost.config, cost.tokens, torch.float32): 0.5})
    search = make((evaluator, limited))
    starts, owner = search.choose_starts()
    targets = torch.tensor(search.budgets, dtype=torch.float64)[owner]
    found = search.exact_violation(search.make_learned(starts, targets), targets)
    assert found.shape == (len(owner), 2)
    for row, schedule, budget in zip(found, search.kernel.harden(starts).tolist(), targets.tolist(), strict=True):
        assert row.tolist() == limited.exact_excess(schedule, budget)


def test_training_improves_on_its_starts(toy, predictor):
    trained, untrained = make(toy, predictor=predictor).run(), make(toy, predictor=predictor, lr=1e-9).run()
    assert sum(map(loss_of, trained)) < 0.99 * sum(map(loss_of, untrained))


def test_training_finds_a_better_split_of_a_bad_start(toy):
    """From even cuts at the right layers, as if nothing had been probed."""
    search = make(toy, steps_of_gradient=200)
    even = fit_to_budget((1.0, 1.0, 0.7, 0.7, 0.5, 0.5), toy[1], 0.6)
    start, owner = search.kernel.encode(even)[None], torch.tensor([1])
    search.asked = [0.6]
    owner = torch.tensor([0])
    before, after = (select(search, rows, owner)[0] for rows in (start, search.train(start, owner)))
    assert loss_of(after) < 0.8 * loss_of(before)


def test_budgets_hold_exactly_and_are_used(toy, predictor):
    for result in make(toy, predictor=predictor).run():
        spent = toy[1].exact(result.schedule)
        assert result.budget - 0.03 < spent <= result.budget
        assert loss_of(result) == pytest.approx(float(toy_loss(torch.tensor(result.schedule))))


def test_the_soft_cost_ends_near_the_budget(toy, predictor):
    seen = []
    search = make(toy, report=seen.append, predictor=predictor)
    rows = search.train(*search.choose_starts())
    soft = toy[1].soft(search.kernel.ratios(rows, 10.0))
    assert len(rows) == 3
    np.testing.assert_allclose(soft.numpy(), BUDGETS, atol=0.06)
    assert [progress.step for progress in seen] == list(range(120))
    assert max(progress.multiplier for progress in seen) > 0
    assert seen[-1].violation < 0.05


def test_rows_stay_legal(toy):
    search = make(toy, starts=3, lr=30.0)
    starts, owner = search.choose_starts()
    rows = search.train(starts, owner)
    assert rows.shape == starts.shape == (9, search.kernel.size)
    np.testing.assert_array_equal(rows, search.kernel.project(rows))


def test_a_row_that_cannot_meet_its_budget_any_more_gives_way_to_its_start(toy, monkeypatch, predictor):
    """Training is made to push every cut to the last layer, where none can cost as little as is asked for."""
    late = torch.tensor([LAYERS - 1.0, LAYERS - 1.0, 0.0, 0.0])
    monkeypatch.setattr(ToySearch, "train", lambda self, starts, owner: late.expand(len(starts), -1))
    search = make(toy, predictor=predictor)
    starts, owner = search.choose_starts()
    assert [(result.budget, result.schedule) for result in search.run()] == [
        (budget, schedule) for budget, (schedule, _) in search.fit(starts, owner)
    ]
    untrained = search.fit(starts, owner)
    assert search.fit(late.expand(3, -1), owner, untrained) == untrained
    with pytest.raises(ConfigError, match="cannot cost as little as"):
        search.fit(late[None], torch.tensor([0]))


def test_more_starts_are_never_worse(toy):
    one, three = make(toy).run(), make(toy, starts=3).run()
    for single, several in zip(one, three, strict=True):
        assert several.kl <= single.kl + 1e-9


def test_a_predictor_is_trained_between_the_asked_budgets_too(toy):
    search = make(toy, predictor=True, anchors=7, steps_of_gradient=3)
    results = search.run()
    budgets = [result.budget for result in results]
    assert budgets == search.budgets == sorted(budgets, reverse=True)
    assert set(BUDGETS) <= set(budgets)
    assert len(budgets) == 7
    assert (budgets[0], budgets[-1]) == (0.8, 0.5)
    for result in results:
        assert toy[1].exact(result.schedule) <= result.budget


def test_a_predictor_answers_for_any_budget(toy):
    """Near the optimum at a budget that it was not trained at, and within it."""
    search = make(toy, predictor=True, anchors=9)
    search.run()
    for budget in (0.78, 0.63, 0.55, 0.51):
        schedule, knobs = search.answers.at(budget)
        assert knobs == {}
        assert budget - 0.03 < toy[1].exact(schedule) <= budget
        assert toy_loss(torch.tensor(schedule)) <= 1.2 * best_two_cuts(toy[1], budget)


def test_answers_too_late_for_their_budget_give_way_to_the_nearest_start(toy):
    search = make(toy, predictor=True, steps_of_gradient=1)
    search.run()
    predictor = search.answers.predictor
    expected = search.answers.at(0.6)
    with torch.no_grad():
        predictor.outer.bias[:2] = 1e6
    assert search.answers.at(0.6)[0] == search.fit(predictor.starts, torch.arange(3))[1][1][0]
    assert toy[1].exact(search.answers.at(0.55)[0]) <= 0.55
    assert expected[0] != search.answers.at(0.55)[0]


def test_polish_moves_what_training_left_and_says_its_kl(micro):
    search = search_micro(micro, 0, lr=1e-9, polish_rounds=1, polish_samples=32)
    plain, polished = search_micro(micro, 0, lr=1e-9).run(), search.run()
    assert [result.budget for result in polished] == [result.budget for result in plain]
    assert any(one.schedule != other.schedule for one, other in zip(plain, polished, strict=True))
    found = micro.evaluate([result.schedule for result in polished])
    before = micro.evaluate([result.schedule for result in plain])
    for result, quality, old in zip(polished, found, before, strict=True):
        assert result.kl == pytest.approx(float(quality.kl.mean()))
        assert quality.lost.mean() <= old.lost.mean() + 1e-9
        assert micro.cost().exact(result.schedule) <= result.budget


def test_knobs_are_not_polished(toy):
    with pytest.raises(ConfigError, match="polishing moves schedules, not knobs"):
        make(toy, tune=("alpha",), polish_rounds=1)


def test_rows_have_no_answers_for_other_budgets(toy):
    search = make(toy, steps_of_gradient=2)
    search.run()
    assert search.answers is None


def test_a_predictor_that_training_made_worse_answers_with_its_starts(toy, monkeypatch):
    search = make(toy, predictor=True, steps_of_gradient=20)
    upside_down = lambda self, batch, ratios, *_: 1 - toy_loss(ratios).float()[:, None]  # noqa: E731
    monkeypatch.setattr(ToySearch, "relaxed_loss", upside_down)
    results = search.run()
    starts, _ = make(toy, predictor=True).choose_starts()
    for result, row in zip(results, starts, strict=True):
        expected = fit_to_budget(search.kernel.harden(row).tolist(), toy[1], result.budget)
        assert result.schedule == search.answers.at(result.budget)[0] == expected


def test_a_knob_is_trained_with_the_schedule(toy, predictor):
    """From 0.5 to its optimum at 0.7; the schedule is found all the same."""
    fixed = make(toy, predictor=predictor).run()
    trained = make(toy, tune=("alpha",), predictor=predictor, steps_of_gradient=200).run()
    for plain, result in zip(fixed, trained, strict=True):
        assert plain.knobs == {}
        assert result.knobs["alpha"] == pytest.approx(0.7, abs=0.05)
        assert loss_of(result) == pytest.approx(loss_of(plain), rel=0.05)
        assert toy[1].exact(result.schedule) <= result.budget


def test_a_knob_stays_in_its_range(toy, monkeypatch):
    more_is_better = lambda self, batch, ratios, _, knobs: 5 - 4 * knobs["alpha"][:, None]  # noqa: E731
    monkeypatch.setattr(ToySearch, "relaxed_loss", more_is_better)
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


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    samples = load_samples("shapes", "validation", 32, cache=tmp_path_factory.mktemp("cache"))
    return Evaluator(*load_checkpoint("micro-llava"), samples)


def search_micro(evaluator, seed, kernel="multistep", **options):
    settings = LearnedSettings(
        **{"steps": 4, "batch": 4, "probe_samples": 16, "select_samples": 32, "anchors": 3, **options}
    )
    return LearnedSearch(evaluator, evaluator.cost(), make_kernel(kernel, 8, 2), (0.6, 0.4), settings, seed=seed)


def test_on_a_model_the_seed_decides(micro, predictor):
    def train(seed):
        search = search_micro(micro, seed, predictor=predictor)
        return search.train(*search.choose_starts())

    first, again, other = map(train, (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("kernel", ["free", "linear", "multistep_fixed"])
def test_on_a_model_every_budget_is_held_by_any_kernel(micro, kernel):
    results = search_micro(micro, 0, kernel=kernel).run()
    assert len(results) == 3
    for result in results:
        assert micro.cost().exact(result.schedule) <= result.budget
        [quality] = micro.evaluate([result.schedule])
        assert result.kl == pytest.approx(float(quality.kl.mean()))


def test_the_ledger_is_charged_for_forward_and_backward(micro):
    """Schedules that cut at layers 2 and 5, by nothing to speak of: layers before a cut run once, without gradient."""
    search = search_micro(micro, 0)
    batch, _ = search.draw()
    micro.ledger.forwards = 0.0
    keep = torch.ones(2, 8)
    keep[0, 2:] -= 1e-3
    keep[1, 5:] -= 1e-3
    with observed_attention(micro.replay.family):
        search.relaxed_loss(batch, keep.requires_grad_(), 0.05, {})
    assert micro.ledger.forwards == pytest.approx(4 * (5 + 2 * 6 + 2 * 3) / 8, rel=1e-3)


def test_on_a_model_a_knob_is_trained_too():
    samples = load_samples("shapes", "validation", 32)
    evaluator = Evaluator(*load_checkpoint("micro-llava"), samples, "balanced_fastv", {"alpha": 0.6})
    search = search_micro(evaluator, 0, tune=("alpha",), knob_lr=0.2)
    starts, owner = search.choose_starts()
    trained = search.train(starts, owner)
    assert starts[:, -1].tolist() == pytest.approx([0.6] * 3)
    assert (trained[:, -1] - 0.6).abs().max() > 1e-3, "nothing was learned"
    for result in select(search, trained, owner):
        [quality] = evaluator.share("balanced_fastv", result.knobs).evaluate([result.schedule])
        assert result.kl == pytest.approx(float(quality.kl.mean())), "it was measured with the knob that it has"


def test_straight_through_masks_run_every_token(micro):
    search = search_micro(micro, 0, straight_through=True)
    batch, _ = search.draw()
    micro.ledger.forwards = 0.0
    keep = torch.tensor([[1.0, 1.0, *[0.3] * 6]], requires_grad=True)
    with observed_attention(micro.replay.family):
        loss = search.relaxed_loss(batch, keep, 0.05, {})
    loss.sum().backward()
    assert micro.ledger.forwards == pytest.approx(4 * (2 + 2 * 6) / 8)
    assert keep.grad.isfinite().all()
    assert keep.grad[0, 2:].sum() < 0


def test_gradients_point_to_keeping_more(micro):
    search = search_micro(micro, 0, batch=16)
    batch, _ = search.draw()
    parameters = search.kernel.encode((1.0, 1.0, *[0.3] * 3, *[0.1] * 3))[None].requires_grad_()
    with observed_attention(micro.replay.family):
        loss = search.relaxed_loss(batch, search.kernel.ratios(parameters, 5.0), 0.05, {})
    loss.sum().backward()
    assert parameters.grad[0, 2:].sum() < 0, "larger keep factors must lower the loss"


def test_the_result_is_the_best_of_what_was_measured(micro):
    search = search_micro(micro, 0, predictor=False)
    early, late = (1.0, *[0.5] * 2, *[0.2] * 5), (1.0, 1.0, *[0.5] * 2, *[0.2] * 4)
    rows = torch.stack([search.kernel.encode(schedule) for schedule in (early, late, early, late)])
    results = select(search, rows, torch.tensor([0, 0, 1, 1]))
    for result in results:
        rivals = [fit_to_budget(row, search.cost, result.budget) for row in search.kernel.harden(rows[:2]).tolist()]
        losses = [float(quality.lost.mean()) for quality in micro.evaluate(rivals)]
        assert result.schedule == rivals[int(np.argmin(losses))]


def test_a_predictor_of_prompts_gives_every_sample_its_own_schedule(micro):
    search = search_micro(micro, 0, per_sample=True, steps=4, lr=4.0, anchors=3)
    _, features = search.draw()
    assert features.shape == (4, 8)
    search.train(*search.choose_starts())
    schedules = search.answers.each(0.5, micro.batches, micro.cost())
    assert len(set(schedules)) > 4
    for schedule, kind in zip(schedules, micro.cost().tokens, strict=True):
        own = FlopCost(micro.model.config, [kind], micro.selector.flops)
        assert 0.4 < own.exact(schedule) <= 0.5
    assert micro.cost().exact_each(schedules) <= 0.5
    together, _ = search.answers.at(0.5)
    assert micro.cost().exact(together) <= 0.5
    shared = search_micro(micro, 0)
    shared.train(*shared.choose_starts())
    with pytest.raises(ConfigError, match=r"does not look at prompts; train one with search\.per_sample=true"):
        shared.answers.each(0.5, micro.batches, micro.cost())
