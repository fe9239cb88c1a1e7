"""Searches by sampling: schedules and knobs in their ranges, and samplers that learn from what they are told."""

import optuna
import pytest
import torch

from vispco.errors import ConfigError
from vispco.schedule import check_keep
from vispco.search.sampled import LEAST, SAMPLERS, check_knobs, propose, sample
from vispco.selectors import Knob, make_selector

LAYERS = 6
KNOBS = {"alpha": Knob(0, 1), "window": Knob(1, 8, whole=True)}
WEIGHTS = torch.tensor([0.0, 4.0, 0.2, 3.0, 0.1, 0.05], dtype=torch.float64)


def damage(proposal):
    """Cost, and a damage that is least at alpha = 0.7 and window = 3."""
    keep = torch.tensor(proposal.schedule, dtype=torch.float64)
    wrong = 1 + 4 * (proposal.knobs["alpha"] - 0.7) ** 2 + 0.2 * abs(proposal.knobs["window"] - 3)
    return float(keep.mean()), float((0.1 + (WEIGHTS * (1 - keep) ** 2).sum()) * wrong)


def run(sampler, seed=0, trials=60):
    return sample(sampler, damage, layers=LAYERS, steps=2, knobs=KNOBS, trials=trials, seed=seed)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_proposals_are_schedules_and_knobs_in_range(sampler):
    proposals = run(sampler, trials=30)
    assert len(proposals) == 30
    for proposal in proposals:
        assert check_keep(proposal.schedule, LAYERS)[0] == 1.0
        assert len(set(proposal.schedule)) <= 3, "two cuts"
        assert proposal.schedule[-1] >= LEAST**2 * 0.999
        assert 0 <= proposal.knobs["alpha"] <= 1
        assert proposal.knobs["window"] in range(1, 9)
        assert isinstance(proposal.knobs["window"], int)
    assert len({proposal.schedule for proposal in proposals}) > 10


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_the_seed_decides(sampler):
    first, again, other = run(sampler, 0, 15), run(sampler, 0, 15), run(sampler, 1, 15)
    assert first == again
    assert first != other


def test_a_cut_is_where_and_as_deep_as_proposed():
    trial = optuna.trial.FixedTrial(
        {"layer 0": 4, "share 0": 0.5, "layer 1": 2, "share 1": 0.4, "layer 2": 2, "share 2": 0.5}
    )
    assert propose(trial, LAYERS, 3, {}).schedule == (1.0, 1.0, 0.2, 0.2, 0.1, 0.1)


def test_samplers_learn_from_what_they_are_told():
    """TPE's later proposals are nearer to the best knobs than random ones, and its front is better."""
    fronts, near = {}, {}
    for sampler in ("random", "tpe"):
        proposals = [proposal for seed in range(3) for proposal in run(sampler, seed)[30:]]
        near[sampler] = sum(abs(proposal.knobs["alpha"] - 0.7) for proposal in proposals) / len(proposals)
        fronts[sampler] = sum(volume(run(sampler, seed)) for seed in range(3))
    assert near["tpe"] < 0.8 * near["random"]
    assert fronts["tpe"] > fronts["random"]


def volume(proposals):
    """Area between the front and (1, 3)."""
    best, total, last = 3.0, 0.0, None
    for cost, loss in sorted(map(damage, proposals)):
        if last is not None:
            total += (cost - last) * (3.0 - best)
        best, last = min(best, loss), cost
    return total + (1.0 - last) * (3.0 - best)


def test_unknown_knobs_are_refused():
    selector = make_selector("balanced_fastv")
    assert check_knobs(selector, ["alpha"]) == {"alpha": selector.knobs["alpha"]}
    assert check_knobs(selector, []) == {}
    with pytest.raises(ConfigError, match="BalancedFastV has no knob 'beta' to tune; its knobs: alpha"):
        check_knobs(selector, ["beta"])
    with pytest.raises(ConfigError, match="FastV has no knob 'alpha' to tune; its knobs: none"):
        check_knobs(make_selector("fastv"), ["alpha"])
