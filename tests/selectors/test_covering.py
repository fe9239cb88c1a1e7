"""The greedy walk itself: what it touches, what it waits for, and how ties fall."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vispco.errors import VispcoError
from vispco.selectors.covering import (
    CHUNK,
    chords,
    chosen_rows,
    covering_radius,
    farthest_points,
    nearest,
    seed_gaps,
    unit_rows,
)


class Watch(TorchDispatchMode):
    """Largest tensor that is made, and how often the host asks the device for a number."""

    def __init__(self):
        super().__init__()
        self.largest, self.syncs = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.syncs += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


def rows_of(*shape, seed=0):
    signal = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return unit_rows(signal, torch.ones(shape[:2], dtype=torch.bool))


def walk(unit, steps):
    return farthest_points(unit, seed_gaps(unit, torch.ones(unit.shape[:2], dtype=torch.bool)), steps)


def test_no_square_matrix_and_no_waiting():
    tokens = 3 * CHUNK
    with Watch() as few:
        walk(rows_of(2, tokens, 4), 2)
    with Watch() as many:
        walk(rows_of(2, tokens, 4), 20)
    assert many.largest <= 2 * tokens * CHUNK
    assert many.syncs == few.syncs


@pytest.mark.parametrize("tokens", [CHUNK - 1, CHUNK, 2 * CHUNK + 7])
def test_seed_over_chunks(tokens):
    """A lone direction is the seed wherever it is, and its nearest is not itself."""
    for place in (0, CHUNK - 2, tokens - 1):
        signal = rows_of(1, tokens, 6)
        signal[..., -1] = 0.0
        signal[0, place] = torch.eye(6)[-1]
        assert walk(unit_rows(signal, torch.ones(1, tokens, dtype=torch.bool)), 1).tolist() == [[place]]


@pytest.mark.parametrize(("tokens", "width"), [(5, 3), (37, 8), (601, 33), (577, 64)])
def test_equal_tokens_are_picked_in_turn(tokens, width):
    """Every distance is exactly 0, whatever the shape, so the lower index goes first."""
    unit = rows_of(3, 1, width).expand(-1, tokens, -1).contiguous()
    assert chords(unit, unit[:, :1]).abs().max() == 0
    assert walk(unit, 4).tolist() == [[0, 1, 2, 3]] * 3


def test_duplicates_go_to_the_lower_index():
    """Each of 40 directions comes five times: all 40 are seen before any comes again, always at its first place."""
    unit = rows_of(4, 40, 16).repeat(1, 5, 1)
    picks = walk(unit, 80)
    assert (picks[:, :40].sort(dim=1).values == torch.arange(40)).all()
    assert (picks[:, 40:] == torch.arange(40, 80)).all()


def test_picks_of_a_batch_are_those_of_its_samples():
    unit = rows_of(5, 200, 24)
    together = walk(unit, 50)
    assert torch.equal(together, torch.cat([walk(unit[row : row + 1], 50) for row in range(5)]))
    padded = torch.cat([unit, rows_of(5, 31, 24, seed=1)], dim=1)
    valid = torch.arange(231).expand(5, -1) < 200
    assert torch.equal(together, farthest_points(padded, seed_gaps(padded, valid), 50))


def test_tokens_that_cannot_be_picked_are_not():
    unit = rows_of(2, 9, 3)
    gaps = torch.full((2, 9), 1.0)
    gaps[:, ::2] = -torch.inf
    assert farthest_points(unit, gaps, 4).sort(dim=1).values.tolist() == [[1, 3, 5, 7]] * 2
    assert farthest_points(unit, gaps, 0).shape == (2, 0)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e37])
def test_unit_rows_of_any_length(scale):
    signal = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]]) * scale
    unit = unit_rows(signal, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(unit, torch.tensor([[[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]]))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_no_direction_is_refused_where_it_counts(broken):
    signal = torch.tensor([[[1.0, broken], [1.0, 2.0]]])
    with pytest.raises(VispcoError, match="NaN"):
        unit_rows(signal, torch.tensor([[True, True]]))
    assert unit_rows(signal, torch.tensor([[False, True]]))[0, 0].tolist() == [0.0, 0.0]


def test_nearest_and_radius_of_ragged_sets():
    angles = torch.tensor([[0.0, 60.0, 180.0], [0.0, 90.0, 0.0]]).deg2rad()
    unit = torch.stack([angles.cos(), angles.sin()], dim=-1)
    there = torch.tensor([[True, True, True], [True, True, False]])
    chosen = torch.tensor([[True, False, False], [False, True, False]])
    rows, rows_there = chosen_rows(unit, chosen)
    assert rows.shape == (2, 1, 2)
    gaps = nearest(unit, rows, rows_there)
    torch.testing.assert_close(gaps, torch.tensor([[0.0, 1.0, 2.0], [2**0.5, 0.0, 2**0.5]]))
    torch.testing.assert_close(covering_radius(unit, there, rows, rows_there), torch.tensor([2.0, 2**0.5]))
    torch.testing.assert_close(covering_radius(unit, there & chosen, rows, rows_there), torch.zeros(2), rtol=0, atol=0)


def test_longer_and_empty_choices_side_by_side():
    unit = rows_of(3, 4, 2)
    chosen = torch.tensor([[False, True, False, True], [False, False, True, False], [False] * 4])
    rows, there = chosen_rows(unit, chosen)
    assert there.tolist() == [[True, True], [True, False], [False, False]]
    assert torch.equal(rows[0], unit[0, [1, 3]])
    assert torch.equal(rows[1, 0], unit[1, 2])
    assert nearest(unit, rows, there)[2].tolist() == [torch.inf] * 4
    assert nearest(unit, rows[:, :0], there[:, :0]).isinf().all()
    assert covering_radius(unit, torch.zeros(3, 4, dtype=torch.bool), rows, there).tolist() == [0.0] * 3
    assert covering_radius(unit[:, :0], there[:, :0], rows, there).tolist() == [0.0] * 3
