"""FEATHER: the union of grid and best scores, and a slow oracle for any count."""

import pytest
import torch

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.feather import Feather


def grid_of(height, width):
    """Row and column of every token of an image, (tokens, 2)."""
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


def kept(row, grid, valid, counts, **parameters):
    inputs = SelectorInputs(valid=valid, unrotated_row=row, grid=grid)
    return Feather(**parameters).choose(inputs, torch.as_tensor(counts))


def one(row, grid, count, **parameters):
    """The kept set of one sample with all its tokens."""
    valid = torch.ones(1, len(row), dtype=torch.bool)
    return set(kept(torch.as_tensor(row)[None], grid[None], valid, [count], **parameters)[0].nonzero()[:, 0].tolist())


def test_grid_comes_first_and_both_parts_by_score():
    """A 3 x 4 image with stride 2: the grid is tokens 0, 2, 8, 10."""
    row, grid = [0.05, 0.9, 0.3, 0.8, 0.7, 0.6, 0.5, 0.95, 0.1, 0.4, 0.2, 0.01], grid_of(3, 4)
    assert one(row, grid, 1, stride=2) == {2}
    assert one(row, grid, 3, stride=2) == {2, 10, 8}
    assert one(row, grid, 4, stride=2) == {0, 2, 8, 10}
    assert one(row, grid, 6, stride=2) == {0, 2, 8, 10, 7, 1}
    assert one(row, grid, 11, stride=2) == set(range(11))


def test_published_first_stage_is_the_union():
    """27 x 27: the best 218 of 729 and the 81 of the grid. At the size of their union the kept set is the union."""
    row, grid = torch.rand(729, generator=torch.Generator().manual_seed(0)), grid_of(27, 27)
    strided = set(torch.arange(729).reshape(27, 27)[::3, ::3].flatten().tolist())
    assert len(strided) == 81
    assert one(row, grid, 81) == strided
    union = strided | set(row.topk(int(729 * 0.3)).indices.tolist())
    assert 218 < len(union) <= 299
    assert one(row, grid, len(union)) == union
    assert one(row, grid, 26) < strided


def test_stride_one_is_the_score_alone():
    row = torch.rand(20, generator=torch.Generator().manual_seed(0))
    for count in range(21):
        assert one(row, grid_of(4, 5), count, stride=1) == set(row.topk(count).indices.tolist())


def test_wide_strides_take_the_first_token_of_each_image():
    grid = torch.cat([grid_of(2, 3), grid_of(2, 2)])
    assert one(torch.arange(10.0), grid, 2, stride=8) == {0, 6}
    assert one(torch.arange(10.0), grid, 3, stride=8) == {0, 6, 9}


@pytest.mark.parametrize("seed", range(20))
def test_choice_is_the_oracle_s(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator)

    stride, tokens = 1 + seed % 4, 12
    valid = draw(50, tokens) < draw(50, 1) * 1.5
    row = draw(50, tokens).masked_fill(~valid, 1e30)
    grid = (draw(50, tokens, 2) * 5).long().masked_fill(~valid[:, :, None], 0)
    counts = (draw(50) * (valid.sum(dim=1) + 1)).long()
    chosen = kept(row, grid, valid, counts, stride=stride)
    for sample in range(50):
        there = [j for j in range(tokens) if valid[sample, j]]
        on = [j for j in there if int(grid[sample, j, 0]) % stride == 0 and int(grid[sample, j, 1]) % stride == 0]
        by_score = sorted(there, key=lambda j: -float(row[sample, j]))
        best = [j for j in by_score if j in on] + [j for j in by_score if j not in on]
        assert set(chosen[sample].nonzero()[:, 0].tolist()) == set(best[: int(counts[sample])])


def test_ranks_are_a_permutation_with_tokens_that_are_gone_last():
    """Whatever their place in the grid: here they are on it."""
    valid = torch.tensor([[False, True, True, False, True, True]])
    inputs = SelectorInputs(valid=valid, unrotated_row=torch.full((1, 6), 0.5), grid=grid_of(2, 3)[None])
    assert Feather().ranks(inputs)[0].tolist() == [4, 0, 1, 5, 2, 3]


def test_ties_go_to_the_lower_index_within_each_part():
    assert one([0.5] * 16, grid_of(4, 4), 3) == {0, 3, 12}
    assert one([0.5] * 16, grid_of(4, 4), 6) == {0, 3, 12, 15, 1, 2}


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_few_tokens(tokens):
    for count in range(tokens + 1):
        assert len(one(torch.zeros(tokens), grid_of(1, tokens), count)) == count


@pytest.mark.parametrize("stride", [1, 8])
def test_strides_that_are_taken(stride):
    assert Feather(stride=stride).stride == stride
    assert Feather().stride == 3


@pytest.mark.parametrize("stride", [0, 9, -3, 2.0, True, None, "3"])
def test_strides_that_are_refused(stride):
    with pytest.raises(ConfigError, match=r"^selector parameter stride = .* is not a whole number in 1..8; choose one"):
        Feather(stride=stride)


def test_nan_is_refused():
    with pytest.raises(VispcoError, match="NaN"):
        one([0.1, float("nan")], grid_of(1, 2), 1)


def test_reads_the_row_and_the_grid():
    assert Feather.needs == {"unrotated_row", "grid"}
