"""Kernels that cut at a few layers: gates that pass gradients between layers, cuts, starts."""

from itertools import combinations, pairwise

import pytest
import torch

from vispco.kernels import make_kernel
from vispco.kernels.base import factor, gate, logit
from vispco.kernels.stepped import nearest_cuts, spread_cuts

LAYERS = 12
BETWEEN = torch.linspace(5.0, 7.0, 81, dtype=torch.float64)
"""Centres on and between layers."""


def sensitivity(kernel, centres, sharpness):
    """How much the sum of the ratios grows with the position of a cut that drops everything."""
    rows = torch.stack([centres, torch.full_like(centres, -5.0)], dim=1).requires_grad_()
    kernel.ratios(rows, sharpness).sum().backward()
    return rows.grad[:, 0]


def row(centres, factors):
    return torch.cat([torch.tensor(centres).double(), logit(torch.tensor(factors).double())])


# --- Gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [3.0, 10.0, 30.0, 1000.0])
def test_positions_are_felt_alike_on_layers_and_between_them(sharpness):
    """One layer later keeps one layer's worth of ratios more, wherever the cut is."""
    found = sensitivity(make_kernel("step", LAYERS), BETWEEN, sharpness)
    assert found.max() / found.min() < 1 + 1e-4
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-4)


def test_a_plain_sigmoid_would_lose_them():
    """What the gate is there for: VisPCO's gamma of 10 loses a factor of 19 at half-integers."""
    swing = {}
    for sharpness in (3.0, 10.0):
        centres = BETWEEN.clone().requires_grad_()
        (1 - torch.sigmoid(sharpness * (torch.arange(LAYERS)[:, None] - centres))).sum().backward()
        swing[sharpness] = float(centres.grad.max() / centres.grad.min())
    assert swing[3.0] == pytest.approx(1.076, abs=0.001)
    assert swing[10.0] == pytest.approx(18.81, abs=0.01)


@pytest.mark.parametrize("sharpness", [3.0, 10.0, 30.0])
def test_positions_are_felt_at_the_ends_too(sharpness):
    """Half as much at layer 1, as half of the cut would be at layer 0; nearly whole at the last layer."""
    found = sensitivity(make_kernel("step", LAYERS), torch.tensor([1.0, LAYERS - 1.0]).double(), sharpness)
    assert found.tolist() == [pytest.approx(0.5, abs=0.01), pytest.approx(1.0, abs=0.05)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 10.0, 1e6])
def test_gate_is_the_average_of_a_sigmoid_over_a_layer(dtype, sharpness):
    offset = torch.linspace(-4, 4, 33, dtype=dtype)
    inside = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    expected = torch.sigmoid(sharpness * (offset.double()[:, None] + inside)).mean(dim=1)
    torch.testing.assert_close(gate(offset, sharpness).double(), expected, rtol=0, atol=1e-6)


def test_gate_has_a_slope_in_its_very_middle():
    offset = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    assert float(gate(offset.detach(), 10.0)) == pytest.approx(0.5)
    gate(offset, 10.0).backward()
    assert float(offset.grad) == pytest.approx(torch.tensor(2.5).tanh().item())


# --- Sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_reach_nothing_and_everything(dtype):
    ends = factor(torch.tensor([-9.0, -5.0, 0.0, 5.0, 9.0], dtype=dtype))
    assert ends.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    inside = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(factor(logit(inside)), inside, rtol=0, atol=1e-12)
    assert (logit(inside).abs() <= 5.0 + 1e-9).all()


# --- Cuts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_step_multiplies_from_the_nearest_layer_on(steps):
    kernel = make_kernel("multistep", LAYERS, steps)
    generator = torch.Generator().manual_seed(steps)
    for _ in range(50):
        centres = (torch.rand(steps, generator=generator) * (LAYERS + 3) - 2).tolist()
        factors = torch.rand(steps, generator=generator).tolist()
        expected = torch.ones(LAYERS).double()
        for centre, kept in zip(centres, factors, strict=True):
            expected[max(1, round(centre)) :] *= kept
        torch.testing.assert_close(kernel.harden(row(centres, factors)), expected, rtol=0, atol=1e-6)


def test_smooth_schedule_tends_to_the_hardened_one():
    """At whole centres; between layers it tends to a mixture of both."""
    kernel = make_kernel("multistep", LAYERS, 2)
    whole = row([3.0, 7.0], [0.6, 0.3])
    torch.testing.assert_close(kernel.ratios(whole, 1e6), kernel.harden(whole), rtol=0, atol=1e-5)
    between = [float(kernel.ratios(row([3.3, 7.0], [0.6, 0.3]), 1e6)[layer]) for layer in (2, 3, 4)]
    assert between == pytest.approx([1.0, 1 - 0.7 * 0.4, 0.6], abs=1e-5)


@pytest.mark.parametrize(("layers", "steps"), [(2, 1), (8, 1), (8, 2), (8, 7), (32, 4), (32, 31), (33, 5)])
def test_fixed_steps_stand_where_the_paper_has_them(layers, steps):
    """Nearest to (2j - 1) L / (2M), one a layer, none at layer 0."""
    places = make_kernel("multistep_fixed", layers, steps).places
    assert len(set(places)) == steps
    assert min(places) >= 1
    assert max(places) <= layers - 1
    for step, place in enumerate(places, 1):
        assert abs(place - (2 * step - 1) * layers / (2 * steps)) <= 0.5


def test_fixed_steps_cut_at_their_layers_only():
    kernel = make_kernel("multistep_fixed", 8, 2)
    assert kernel.places == (2, 6)
    sizes = logit(torch.tensor([0.5, 0.2]).double())
    expected = torch.tensor([1.0] * 2 + [0.5] * 4 + [0.1] * 2).double()
    torch.testing.assert_close(kernel.harden(sizes), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(kernel.ratios(sizes, 1e6), expected, rtol=0, atol=1e-5)


def test_free_schedule_is_the_product_of_what_layers_keep():
    kernel = make_kernel("free", 5)
    kept = torch.tensor([1.0, 0.5, 0.8, 0.25]).double()
    expected = torch.tensor([1.0, 1.0, 0.5, 0.4, 0.1]).double()
    torch.testing.assert_close(kernel.harden(logit(kept)), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(kernel.ratios(logit(kept), 3.0), expected, rtol=0, atol=1e-9)


def test_steps_left_over_keep_everything_and_can_wake():
    kernel = make_kernel("multistep", LAYERS, 3)
    parameters = kernel.encode([1.0] * 4 + [0.4] * 8)
    assert parameters[:3].tolist() == [4.0, 11.0, 11.0]
    expected = torch.tensor([1.0] * 4 + [0.4] * 8).double()
    torch.testing.assert_close(kernel.harden(parameters), expected, rtol=0, atol=1e-6)
    assert kernel.harden(parameters)[-1] == kernel.harden(parameters)[4]
    parameters.requires_grad_()
    kernel.ratios(parameters, 3.0).sum().backward()
    assert (parameters.grad[3:] > 1e-3).all()


# --- Nearest cuts -----------------------------------------------------------------------------------------------------


def brute_force(schedule, places, steps):
    """Least squared distance over all sets of cuts, means in between."""
    best = float("inf")
    for number in range(steps + 1):
        for cuts in combinations(places, number):
            pieces = [schedule[start:end] for start, end in pairwise((0, *cuts, len(schedule)))]
            levels = [1.0] + [sum(piece) / len(piece) for piece in pieces[1:]]
            errors = [(r - level) ** 2 for piece, level in zip(pieces, levels, strict=True) for r in piece]
            best = min(best, sum(errors))
    return best


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("places", [range(1, 9), (2, 5, 8)])
def test_nearest_cuts_are_the_nearest(steps, places):
    generator = torch.Generator().manual_seed(steps)
    for _ in range(20):
        schedule = [1.0, *torch.rand(8, generator=generator).sort(descending=True).values.tolist()]
        cuts, levels = nearest_cuts(schedule, places, steps)
        assert set(cuts) <= set(places)
        assert len(cuts) == len(levels) <= steps
        found = [1.0 if layer < min(cuts) else levels[sum(cut <= layer for cut in cuts) - 1] for layer in range(9)]
        distance = sum((r - s) ** 2 for r, s in zip(found, schedule, strict=True))
        assert distance == pytest.approx(brute_force(schedule, places, steps), abs=1e-12)


def test_nearest_cuts_are_no_more_than_needed():
    assert nearest_cuts([1.0] * 3 + [0.1] * 5, range(1, 8), 3) == ((3,), (0.1,))
    assert nearest_cuts([1.0] * 8, range(1, 8), 3) == ((), ())


# --- Starts -----------------------------------------------------------------------------------------------------------


def test_starts_hold_every_falling_choice():
    """Against all non-increasing schedules on the ladder that fall at most twice."""
    levels = [0.5, 0.1, 0.25]
    kernel = make_kernel("multistep", 5, 2)
    found = {tuple(round(ratio, 6) for ratio in schedule) for schedule in kernel.harden(kernel.starts(levels)).tolist()}
    expected = set()
    ladder = [1.0, 0.5, 0.25, 0.1]
    for choice in torch.cartesian_prod(*[torch.arange(4)] * 4).tolist():
        schedule = (1.0, *(ladder[place] for place in choice))
        falls = sum(after < before for before, after in pairwise(schedule))
        if choice == sorted(choice) and 1 <= falls <= 2:
            expected.add(schedule)
    assert found == expected
    assert len(kernel.starts(levels)) == len(expected) == 4 * 3 + 6 * 3


def test_too_many_starts_are_thinned_over_all_cuts():
    levels = [0.9 * 0.7**power for power in range(12)]
    chosen = spread_cuts(range(1, 32), 6, levels)
    assert 3990 <= len(chosen) <= 4000
    assert len(set(chosen)) == len(chosen)
    numbers = [len(cuts) for cuts, _ in chosen]
    assert numbers == sorted(numbers)
    assert numbers.count(1) == 31 * 12
    assert min(numbers.count(number) for number in range(2, 7)) > 700
    for number in range(1, 7):
        used = {cut for cuts, _ in chosen for cut in cuts if len(cuts) == number}
        assert used == set(range(1, 32))
    assert all(list(cuts) == sorted(cuts) and list(below) == sorted(below)[::-1] for cuts, below in chosen)
    assert spread_cuts(range(1, 32), 6, levels) == chosen


@pytest.mark.parametrize(("layers", "steps", "number"), [(8, 1, 84), (8, 2, 1470), (32, 1, 372), (32, 2, 4000)])
def test_number_of_starts(layers, steps, number):
    levels = [0.9 * 0.7**power for power in range(12)]
    assert len(make_kernel("multistep", layers, steps).starts(levels)) == number
