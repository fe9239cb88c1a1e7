"""Density peaks: hand-made points, ties and numbers that do not fit into an exponential."""

import math

import pytest
import torch

from vispco.errors import VispcoError
from vispco.selectors.clustering import density_peaks


def on_a_line(*values, copies=1):
    """Points of one sample; copies of the coordinate leave distances, divided by the root of the width, as they are."""
    return torch.tensor(values)[None, :, None].repeat(1, 1, copies)


def peaks(points, number, forced=()):
    there = torch.ones(points.shape[:2], dtype=torch.bool)
    mask = torch.tensor([[i in forced for i in range(points.shape[1])]])
    centres, nearest = density_peaks(points, there, torch.tensor([number]), mask)
    return centres[0].nonzero()[:, 0].tolist(), nearest[0].tolist()


@pytest.mark.parametrize("copies", [1, 4])
def test_two_groups_and_a_point_between(copies):
    """Densities exp of -.005 -.005 -.02 -.02 -12; delta 10.2 .1 9.9 .2 4.9; point 4 is as far from both centres."""
    assert peaks(on_a_line(0.0, 0.1, 10.0, 10.2, 5.0, copies=copies), 2) == ([0, 2], [0, 0, 2, 2, 0])


def test_width_scales_density():
    """Of 0 .4 .8 and 3, rho exp of -.16/2 and -4.84/2, delta 3 .4 .4 2.2: .20 for point 3, .37 for 1 and 2.

    Distances twice as large, as without the root of a width of 4, would still leave it last: exp(-9.68). Half as large,
    .55 * 1.1 beats .96 * .2.
    """
    assert peaks(on_a_line(0.0, 0.4, 0.8, 3.0), 2)[0] == [0, 1]
    assert peaks(on_a_line(0.0, 0.4, 0.8, 3.0) / 2, 2)[0] == [0, 3]
    assert peaks(on_a_line(0.0, 0.4, 0.8, 3.0, copies=4), 2)[0] == [0, 1]
    assert peaks(on_a_line(0.0, 0.4, 0.8, 3.0, copies=4) / 2, 2)[0] == [0, 3]


def test_neighbours_are_as_many_as_clusters():
    """Of two neighbours a pair has enough, of three only the group of three has."""
    points = on_a_line(0.0, 0.125, 5.0, 5.25, 5.5, 20.0)
    assert peaks(points, 2)[0] == [0, 2], "rho exp of -.008 and -.03, delta 20 and 4.875"
    assert peaks(points, 3)[0] == [2, 3, 4], "rho exp of -8 for the pair, of -.1 -.04 -.1 for the three"


def test_the_densest_is_a_centre_wherever_it_is():
    """Rho exp of -.5 -.125 -.125 -2, and point 1 is the first of its two; then point 0, with a delta of 1."""
    assert peaks(on_a_line(0.0, 1.0, 1.5, 3.5), 2)[0] == [0, 1]
    assert math.exp(-0.5) * 1 > math.exp(-0.125) * 0.5 > math.exp(-2) * 2


def test_of_equal_densities_the_first_is_the_denser():
    """Duplicates are not two centres while there are other points; with one cluster the first point is its centre."""
    assert peaks(on_a_line(3.0, 3.0, 3.0, 7.0), 2) == ([0, 3], [0, 0, 0, 3])
    assert peaks(on_a_line(3.0, 9.0, 1.0), 1) == ([0], [0, 0, 0])
    for number in range(5):
        centres, nearest = peaks(on_a_line(*[2.0] * 4), number)
        assert centres == list(range(number))
        assert nearest[:number] == centres, "a centre is in its own cluster, though others are as near"


def test_points_far_apart_still_have_an_order():
    """Exp of -1250 -1250 -450 -450 is 0 in float64, and all would tie; 1000 and 1030 are the densest by far."""
    assert peaks(on_a_line(0.0, 50.0, 1000.0, 1030.0, 4000.0), 2)[0] == [2, 3]


def test_forced_points_are_centres_first():
    points = on_a_line(0.0, 0.1, 10.0, 10.2, 5.0)
    assert peaks(points, 2, {4}) == ([0, 4], [0, 0, 4, 4, 4])
    assert peaks(points, 2, {1, 3, 4})[0] == [1, 3]
    wider = torch.cat([points, torch.zeros(1, 1, 1)], dim=1)
    there, forced = torch.tensor([[1, 1, 1, 1, 1, 0]]).bool(), torch.tensor([[0, 0, 0, 1, 1, 1]]).bool()
    centres, _ = density_peaks(wider, there, torch.tensor([2]), forced)
    assert centres[0].nonzero()[:, 0].tolist() == [3, 4], "before the densest, and a point that is gone is none"


def test_every_sample_has_its_own_points_and_number():
    """Points that do not count are nonsense here, and no neighbours, centres or distances of others."""
    lines = [
        [0.0, 0.1, 10.0, 10.2, 5.0],
        [3.0, 1e20, 3.0, 7.0, 3.0],
        [1.0, 1e20, torch.nan, torch.inf, -1e20],
        [0.0] * 5,
    ]
    there = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    centres, nearest = density_peaks(torch.tensor(lines)[..., None], there, torch.tensor([2, 2, 1, 0]))
    assert centres.int().tolist() == [[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0] * 5]
    assert nearest[0].tolist() == [0, 0, 2, 2, 0]
    assert nearest[1][there[1]].tolist() == [0, 0, 3, 0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(VispcoError, match="NaN"):
        peaks(on_a_line(0.0, value, 1.0), 1)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_to_cluster(shape):
    centres, nearest = density_peaks(
        torch.zeros(*shape, 2), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape[0], dtype=torch.int64)
    )
    assert (centres.shape, nearest.shape, nearest.dtype) == (shape, shape, torch.int64)
