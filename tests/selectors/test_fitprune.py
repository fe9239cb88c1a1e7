"""FitPrune against worked examples, slow oracles and the costs of its published schedules."""

import numpy as np
import pytest
import torch

from vispco.errors import ConfigError, VispcoError
from vispco.schedule import check_keep, keep_counts
from vispco.selectors import SelectorInputs
from vispco.selectors.fitprune import PUBLISHED, FitPrune, fit_deletions, schedule

SELF = torch.tensor([[0.9, 0.2, 0.5, 0.4, 0.3, 0.6]])
CROSS = torch.tensor([[0.1, 0.8, 0.5, 0.2, 0.9, 0.3]])
ALL = torch.ones(1, 6, dtype=torch.bool)


def kept(self_mass, cross_mass, valid, counts):
    inputs = SelectorInputs(valid=valid, self_mass=self_mass, cross_mass=cross_mass)
    return FitPrune().choose(inputs, torch.as_tensor(counts))


def fit(tolerance, self_mass=SELF, cross_mass=CROSS, valid=ALL, share=1.0):
    """Deletions with the masses' own sums, or a multiple of them, for reference."""
    references = [share * mass.masked_fill(~valid, 0.0).sum(dim=1) for mass in (self_mass, cross_mass)]
    return fit_deletions(self_mass, cross_mass, valid, tolerance, *references)


def indices(mask):
    return set(mask[0].nonzero()[:, 0].tolist())


def ragged(seed, batch=50, tokens=10):
    """Masses of a batch whose tokens that are gone hold nonsense."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, tokens, generator=generator) < torch.rand(batch, 1, generator=generator) * 1.5
    masses = [torch.rand(batch, tokens, generator=generator).masked_fill(~valid, 1e30) for _ in range(2)]
    return valid, *masses, generator


# --- scores ----------------------------------------------------------------------------------------------------------


def test_keeps_what_visual_tokens_and_question_attend_to():
    """Products .09 .16 .25 .08 .27 .18: two deletions are 3 and 0."""
    assert indices(~kept(SELF, CROSS, ALL, [4])) == {3, 0}
    assert indices(kept(SELF, CROSS, ALL, [1])) == {4}
    assert indices(kept(SELF, CROSS, ALL, [2])) == {4, 2}


@pytest.mark.parametrize("seed", range(20))
def test_choice_is_the_oracle_s(seed):
    valid, own, cross, generator = ragged(seed)
    counts = (torch.rand(len(valid), generator=generator) * (valid.sum(dim=1) + 1)).long()
    chosen = kept(own, cross, valid, counts)
    for row in range(len(valid)):
        there = [j for j in range(valid.shape[1]) if valid[row, j]]
        best = sorted(there, key=lambda j: -np.float64(own[row, j]) * np.float64(cross[row, j]))
        assert set(chosen[row].nonzero()[:, 0].tolist()) == set(best[: int(counts[row])])


def test_units_of_either_mass_change_nothing():
    """Whether the question's tokens are summed or averaged, say."""
    for count in range(7):
        assert torch.equal(kept(SELF, CROSS / 8, ALL, [count]), kept(SELF, CROSS, ALL, [count]))
        assert torch.equal(kept(SELF * 4, CROSS, ALL, [count]), kept(SELF, CROSS, ALL, [count]))


def test_order_of_tokens_changes_nothing():
    turn = torch.tensor([4, 2, 0, 5, 1, 3])
    for count in range(7):
        assert torch.equal(kept(SELF[:, turn], CROSS[:, turn], ALL, [count]), kept(SELF, CROSS, ALL, [count])[:, turn])


def test_ties_and_an_empty_question_keep_the_first():
    assert indices(kept(torch.full((1, 6), 0.3), torch.full((1, 6), 0.7), ALL, [2])) == {0, 1}
    assert indices(kept(SELF, torch.zeros(1, 6), ALL, [3])) == {0, 1, 2}


@pytest.mark.parametrize("which", [0, 1])
def test_nan_is_refused(which):
    masses = [SELF.clone(), CROSS.clone()]
    masses[which][0, 2] = torch.nan
    with pytest.raises(VispcoError, match="NaN"):
        kept(*masses, ALL, [3])
    gone = ALL.clone()
    gone[0, 2] = False
    assert indices(kept(*masses, gone, [1])) == {4}


def test_reads_two_masses_and_has_no_parameters():
    assert FitPrune.needs == {"self_mass", "cross_mass"}
    assert FitPrune.knobs == {}


# --- fit -------------------------------------------------------------------------------------------------------------


def test_layer_deletes_what_both_masses_can_spare():
    """At 0.25 the prefixes are {1, 4} and {0, 3, 5}; at 0.5 {1, 4, 3, 2} and {0, 3, 5, 2}."""
    assert indices(fit(0.25)) == set()
    assert indices(fit(0.5)) == {2, 3}
    assert indices(~kept(SELF, CROSS, ALL, [4])) == {0, 3}, "as many, but others, than the selector deletes"


def test_one_mass_alone():
    """With the same mass twice the intersection is the prefix."""
    assert indices(fit(0.25, cross_mass=SELF)) == {1, 4}
    assert indices(fit(0.25, self_mass=CROSS)) == {0, 3, 5}
    assert indices(fit(0.5, cross_mass=SELF)) == {1, 4, 3, 2}
    assert indices(fit(0.5, self_mass=CROSS)) == {0, 3, 5, 2}


def prefix(mass, there, tolerance, reference):
    """Walk up from the least mass for as long as enough is left; among equal ones from the last index."""
    left = sum(np.float64(mass[j]) for j in there)
    found = set()
    for j in sorted(there, key=lambda j: (mass[j], -j)):
        left -= np.float64(mass[j])
        if left < (1 - tolerance) * reference - 1e-9:
            break
        found.add(j)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_fit_is_the_oracle_s(seed):
    """References are larger than what is there: earlier layers of the run have deleted tokens."""
    valid, own, cross, generator = ragged(seed)
    tolerance = float(torch.rand(1, generator=generator)) * 0.9 + 0.05
    references = [
        torch.rand(len(valid), generator=generator) * 3 + mass.where(valid, 0.0).sum(1) for mass in (own, cross)
    ]
    deleted = fit_deletions(own, cross, valid, tolerance, *references)
    for row in range(len(valid)):
        there = [j for j in range(valid.shape[1]) if valid[row, j]]
        spared = [
            prefix(mass[row].numpy(), there, tolerance, float(reference[row]))
            for mass, reference in zip((own, cross), references, strict=True)
        ]
        assert set(deleted[row].nonzero()[:, 0].tolist()) == spared[0] & spared[1]


def test_more_tolerance_deletes_more_and_the_ends_are_nothing_and_everything():
    valid, own, cross, _ = ragged(3)
    last = fit(0.0, own, cross, valid, share=1.00001)
    assert not last.any()
    for tolerance in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0):
        now = fit(tolerance, own, cross, valid)
        assert (now >= last).all()
        last = now
    assert torch.equal(last, valid)


def test_whole_mass_in_one_token_is_its_own_layer_s_matter():
    """A layer whose rest weighs nothing spares the rest, whatever other samples or layers had."""
    one = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    deleted = fit(0.1, one, one, torch.ones(2, 4, dtype=torch.bool))
    assert deleted.tolist() == [[True, True, False, True], [False] * 4]


def test_a_reference_that_is_out_of_reach_deletes_nothing():
    assert indices(fit(0.5, share=2.1)) == set()
    assert indices(fit(0.5, share=1.9)) == set()
    assert indices(fit(0.9, share=1.9)) == indices(fit(1 - 0.1 * 1.9))


def test_equal_masses_keep_the_first():
    even = torch.full((1, 4), 0.25)
    assert indices(fit(0.5, even, even, torch.ones(1, 4, dtype=torch.bool))) == {2, 3}


@pytest.mark.parametrize("tokens", [0, 1])
def test_fit_of_few_tokens(tokens):
    few = torch.rand(2, tokens)
    assert fit(0.5, few, few, torch.ones(2, tokens, dtype=torch.bool)).sum() == 0
    assert fit(0.5, few, few, torch.zeros(2, tokens, dtype=torch.bool)).sum() == 0


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, float("nan")])
def test_fit_refuses_a_tolerance_outside_its_range(tolerance):
    with pytest.raises(ConfigError, match=rf"^tolerance = {tolerance} is outside 0..1; give"):
        fit(tolerance)


def test_fit_refuses_nan():
    with pytest.raises(VispcoError, match="NaN"):
        fit(0.5, cross_mass=CROSS * torch.tensor([1, 1, torch.nan, 1, 1, 1]))


# --- published schedules ---------------------------------------------------------------------------------------------


def visual_macs(entering, staying, d=4096, m=11008):
    """Multiply-adds of one layer on visual tokens: attention on what enters it, the rest on what stays in it."""
    return 3 * entering * d**2 + 2 * entering**2 * d + staying * d**2 + 3 * staying * d * m


@pytest.mark.parametrize(
    ("saved", "deleted", "mean", "flops", "flops_here"),
    [(50, 403, 301.8125, 0.503, 0.519), (60, 449, 244.96875, 0.403, 0.421), (80, 514, 130.59375, 0.203, 0.224),
     (90, 539, 72.84375, 0.103, 0.125)],
)  # fmt: skip
def test_published_schedules_cost_what_they_promise(saved, deleted, mean, flops, flops_here):
    table = PUBLISHED[saved]
    assert (len(table), sum(table)) == (32, deleted)
    keep = check_keep(schedule(table), layers=32)
    counts = keep_counts(keep, 576).tolist()
    after = [*counts[1:], counts[-1] - table[-1]]
    assert after[-1] == 576 - deleted
    assert sum(counts) / 32 == mean, "published as 301.8, 245.0, 130.6 and 72.8"
    full = 32 * visual_macs(576, 576)
    assert sum(map(visual_macs, counts, after)) / full == pytest.approx(flops, abs=0.0005)
    assert sum(map(visual_macs, counts, counts)) / full == pytest.approx(flops_here, abs=0.0005)


def test_published_schedules_are_these_four():
    assert set(PUBLISHED) == {50, 60, 80, 90}


def test_schedule_is_what_enters_each_layer():
    assert schedule((2, 0, 1, 4), tokens=8) == (1.0, 0.75, 0.75, 0.625)
    assert schedule((8, 0), tokens=8) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("deletions", "tokens", "message"),
    [
        ((1, 8), 8, r"^deletions\[1\] = 8 is outside 0..7; delete"),
        ((1, -1), 8, r"^deletions\[1\] = -1 is outside 0..7; delete"),
        ((0, 0), 0, r"^tokens = 0 is below 1; give"),
    ],
)
def test_tables_that_are_refused(deletions, tokens, message):
    with pytest.raises(ConfigError, match=message):
        schedule(deletions, tokens)
