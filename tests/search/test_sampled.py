"""Searches by sampling: schedules, selectors and knobs in range, and samplers that learn from what they are told."""

import math
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState
from studying import SPACE, damage, make_search, measure

from vispco.errors import ConfigError
from vispco.schedule import check_keep
from vispco.search import Measured, SampledSearch, Space, check_knobs, open_storage, share_knobs
from vispco.search.sampled import LEAST
from vispco.search.samplers import SAMPLERS
from vispco.selectors import Knob, make_selector

JOINT = Space(6, 2, {"fastv": {}, "mob": {"share": Knob(0, 1), "k": Knob(1, 64, whole=True)}})

samplers = pytest.mark.parametrize("sampler", list(SAMPLERS))


def proposals(sampler, seed=0, trials=60, **options):
    return [told.proposal for told in make_search(sampler, seed=seed, trials=trials, **options).run(measure)]


def judge(number, proposal):
    """MoB is twice as good as FastV, and best at a share of 0.7."""
    keep = sum(proposal.schedule) / 6
    wrong = 2.0 if proposal.selector == "fastv" else 1 + (proposal.knobs["share"] - 0.7) ** 2
    return Measured(keep, wrong * (0.1 + (1 - keep) ** 2))


@samplers
def test_proposals_are_schedules_and_knobs_in_range(sampler):
    found = proposals(sampler, trials=30)
    assert len(found) == 30
    for proposal in found:
        assert check_keep(proposal.schedule, 6)[0] == 1.0
        assert len(set(proposal.schedule)) <= 3, "two cuts"
        assert proposal.schedule[-1] >= LEAST**2 * 0.999
        assert 0 <= proposal.knobs["alpha"] <= 1
        assert proposal.knobs["window"] in range(1, 9)
        assert isinstance(proposal.knobs["window"], int)
    assert len({proposal.schedule for proposal in found}) > 10


def test_a_cut_is_where_and_as_deep_as_proposed():
    trial = optuna.trial.FixedTrial(
        {"layer 0": 4, "share 0": 0.5, "layer 1": 2, "share 1": 0.4, "layer 2": 2, "share 2": 0.5, "selector": "fastv"}
    )
    assert Space(6, 3, {"fastv": {}}).propose(trial).schedule == (1.0, 1.0, 0.2, 0.2, 0.1, 0.1)


@samplers
def test_the_seed_decides(sampler):
    first, again, other = (proposals(sampler, seed, 15) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_all_samplers_draw_from_one_space():
    """Best of N is no comparison if another sampler may propose what random cannot."""
    spaces = []
    for sampler in SAMPLERS:
        search = make_search(sampler, space=JOINT, trials=40)
        search.run(judge)
        spaces.append({name: dist for trial in search.study.trials for name, dist in trial.distributions.items()})
    assert set(spaces[0]) == {"layer 0", "share 0", "layer 1", "share 1", "selector", "mob.share", "mob.k"}
    assert spaces[0] == spaces[1] == spaces[2]


def test_samplers_learn_from_what_they_are_told():
    """TPE's later proposals are nearer to the best knobs than random ones, and its front is better."""
    fronts, near = {}, {}
    for sampler in ("random", "tpe"):
        runs = [proposals(sampler, seed) for seed in range(3)]
        late = [proposal for run in runs for proposal in run[30:]]
        near[sampler] = sum(abs(proposal.knobs["alpha"] - 0.7) for proposal in late) / len(late)
        fronts[sampler] = sum(map(volume, runs))
    assert near["tpe"] < 0.8 * near["random"]
    assert fronts["tpe"] > fronts["random"]


def volume(found):
    """Area between the front and (1, 3)."""
    best, total, last = 3.0, 0.0, None
    for cost, loss in sorted(map(damage, found)):
        if last is not None:
            total += (cost - last) * (3.0 - best)
        best, last = min(best, loss), cost
    return total + (1.0 - last) * (3.0 - best)


def test_several_budgets_are_two_objectives_and_one_budget_is_one():
    several, one = make_search(budgets=(0.4, 0.6), trials=3), make_search(budgets=(0.6,), trials=3)
    for search in (several, one):
        for told, trial in zip(search.run(measure), search.study.trials, strict=True):
            cost, kl = damage(told.proposal)
            expected = [math.log(kl + 0.01)] if search is one else [cost, math.log(kl + 0.01)]
            assert trial.values == pytest.approx(expected)
            assert trial.constraints == {"cost - largest budget": pytest.approx(cost - 0.6)}
    assert one.study.direction == optuna.study.StudyDirection.MINIMIZE


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
@pytest.mark.parametrize("budgets", [(0.45,), (0.3, 0.45)])
def test_samplers_keep_to_the_largest_budget(sampler, budgets):
    """What is dear is the better here, so without the constraint samplers would go there."""

    def share_within(limits, name):
        found = [proposals(name, seed, 50, budgets=limits)[20:] for seed in range(2)]
        return sum(damage(proposal)[0] <= 0.45 for run in found for proposal in run) / 60

    constrained = share_within(budgets, sampler)
    loose = tuple(min(1.0, 2.3 * budget) for budget in budgets)
    assert constrained > share_within(loose, sampler) + 0.15
    assert constrained > share_within(budgets, "random") + 0.15


@pytest.mark.parametrize("budgets", [(0.45,), (0.3, 0.45)])
def test_spending_less_is_never_punished(budgets):
    """Of trials that differ in cost alone, none is infeasible for being cheap, and the cheapest is among the best."""
    search = make_search(budgets=budgets, trials=12)
    search.run(lambda number, proposal: Measured(0.02 + 0.05 * number, 0.5))
    feasible = [trial.number for trial in search.study.trials if all(v <= 0 for v in trial.constraints.values())]
    assert feasible == list(range(9))
    assert 0 in {trial.number for trial in search.study.best_trials}


@samplers
def test_selectors_are_searched_with_their_own_knobs(sampler):
    search = make_search(sampler, space=JOINT, trials=60)
    told = search.run(judge)
    for trial in told:
        assert set(trial.proposal.knobs) == ({"share", "k"} if trial.proposal.selector == "mob" else set())
    assert {trial.proposal.selector for trial in told} == {"fastv", "mob"}
    frozen = next(trial for trial in search.study.trials if trial.params["selector"] == "fastv")
    assert not [name for name in frozen.params if name.startswith("mob")]


def test_the_better_selector_and_its_knobs_are_found():
    found = [p for seed in range(3) for p in proposals_of("tpe", seed)[30:]]
    drawn = [p for seed in range(3) for p in proposals_of("random", seed)[30:]]
    mob, blind = ([p for p in some if p.selector == "mob"] for some in (found, drawn))
    assert len(mob) > 1.3 * len(blind)
    assert distance(mob) < 0.8 * distance(blind)


def proposals_of(sampler, seed):
    return [told.proposal for told in make_search(sampler, space=JOINT, trials=80, seed=seed).run(judge)]


def distance(found):
    return sum(abs(proposal.knobs["share"] - 0.7) for proposal in found) / len(found)


def test_unknown_knobs_are_refused():
    selector = make_selector("balanced_fastv")
    assert check_knobs(selector, ["alpha"]) == {"alpha": selector.knobs["alpha"]}
    assert check_knobs(selector, []) == {}
    with pytest.raises(ConfigError, match="BalancedFastV has no knob 'beta' to tune; its knobs: alpha"):
        check_knobs(selector, ["beta"])
    with pytest.raises(ConfigError, match="FastV has no knob 'alpha' to tune; its knobs: none"):
        check_knobs(make_selector("fastv"), ["alpha"])


def test_a_knob_is_for_every_selector_that_has_it():
    several = {name: make_selector(name) for name in ("fastv", "mob", "balanced_fastv")}
    found = share_knobs(several, ["share", "alpha"])
    assert {name: list(knobs) for name, knobs in found.items()} == {
        "fastv": [], "mob": ["share"], "balanced_fastv": ["alpha"],
    }  # fmt: skip
    with pytest.raises(
        ConfigError, match="fastv, mob, balanced_fastv has a knob 'beta' to tune; their knobs: alpha, k"
    ):
        share_knobs(several, ["share", "beta"])
    with pytest.raises(ConfigError, match="FastV has no knob 'alpha'"):
        share_knobs({"fastv": several["fastv"]}, ["alpha"])


class Stop(Exception):
    """Ends a worker in the middle of a trial."""


@pytest.mark.parametrize(("sampler", "trials"), [("random", 30), ("tpe", 30), ("nsga2", 40)])
@pytest.mark.parametrize("kind", ["interrupted", "killed"])
def test_an_interrupted_study_goes_on_as_if_it_had_not_been(sampler, trials, kind, tmp_path):
    """Proposals and values of a study that stopped at its 24th trial are those of one that ran through."""
    whole = make_search(sampler, trials=trials).run(measure)
    where = str(tmp_path / "study.log")
    search = make_search(sampler, where, trials=trials)

    def stops(number, proposal):
        if number == 23:
            raise Stop
        return measure(number, proposal)

    if kind == "killed":  # nothing is said about the trial, and its worker is gone
        search.leases.give_up = lambda trial: None
    with pytest.raises(Stop):
        search.run(stops)
    again = make_search(sampler, where, trials=trials)
    if kind == "killed":
        again.leases._is_dead = lambda trial: trial.number == 23
    resumed = again.run(measure)
    assert [told.proposal for told in resumed] == [told.proposal for told in whole]
    assert [told.measured.kl for told in resumed] == [told.measured.kl for told in whole]
    states = [trial.state for trial in again.study.trials]
    assert [number for number, state in enumerate(states) if state != TrialState.COMPLETE] == [23]
    assert again.study.trials[24].user_attrs["retry_of"] == 23


def test_what_fails_twice_is_not_tried_again(tmp_path):
    where = str(tmp_path / "study.log")
    failed = []

    def fails(number, proposal):
        if number == 2 or proposal in failed:
            failed.append(proposal)
            raise Stop
        return measure(number, proposal)

    for _ in range(2):
        with pytest.raises(Stop):
            make_search(where=where, trials=6).run(fails)
    told = make_search(where=where, trials=6).run(fails)
    assert len(failed) == 2
    assert failed[0] == failed[1]
    assert len(told) == 6
    assert failed[0] not in [trial.proposal for trial in told]
    params = [trial.params for trial in make_search(where=where, trials=6).study.trials]
    assert params[2] == params[3]
    assert len(params) == 8


def test_errors_of_the_objective_are_not_hidden():
    """Also those that look like what Optuna says of a finished trial."""
    with pytest.raises(ValueError, match="not a number"):
        make_search().run(lambda number, proposal: (_ for _ in ()).throw(ValueError("not a number")))
    search = make_search()
    with pytest.raises(ValueError, match="NaN"):
        search.run(lambda number, proposal: Measured(math.nan, 0.1))


def test_a_complete_study_needs_no_more_trials(tmp_path):
    where = str(tmp_path / "study.log")
    first = make_search(where=where).run(measure)
    search = make_search(where=where, report=(seen := []).append)
    assert search.run(None) == first
    assert seen == [20]
    assert [told.measured.record["name"] for told in first] == [f"trial {number}" for number in range(20)]
    assert make_search(where=where, trials=8).run(None) == first[:8]
    more = make_search(where=where, trials=26).run(measure)
    assert more[:20] == first
    assert len(more) == len({told.number for told in more}) == 26


def test_studies_of_one_storage_are_apart(tmp_path):
    storage = open_storage(str(tmp_path / "study.log"))
    for name in ("a", "b"):
        SampledSearch("random", SPACE, (0.5,), trials=3, seed=0, storage=storage, study=name).run(measure)
    assert sorted(optuna.get_all_study_names(storage)) == ["a", "b"]


def test_limits_on_other_costs_are_constraints_of_the_study():
    search = make_search(trials=4)
    search.run(lambda number, proposal: replace(measure(number, proposal), over=(0.1 * number - 0.15, -0.2)))
    for trial in search.study.trials:
        assert trial.constraints["limit 0"] == pytest.approx(0.1 * trial.number - 0.15)
        assert trial.constraints["limit 1"] == -0.2
