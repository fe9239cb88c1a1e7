"""Window FastV against a worked example, the paper's rule, and rounds of picks written out."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import FastV, SelectorInputs
from vispco.selectors.window_fastv import WindowFastV, rank_in_groups

ROW = torch.tensor([[0.08, 0.03, 0.10, 0.15, 0.05, 0.09]])
ALL = torch.ones(1, 6, dtype=torch.bool)
LINE = torch.tensor([[[0, column] for column in range(6)]])
ONE_IMAGE = torch.zeros(1, 6, dtype=torch.int64)


def grid_of(height, width):
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))[None]


def one_image(row, height, width):
    valid = torch.ones(row.shape, dtype=torch.bool)
    return SelectorInputs(valid=valid, last_row=row, images=torch.zeros_like(row).long(), grid=grid_of(height, width))


def kept(inputs, count, window=3):
    chosen = WindowFastV(window).choose(inputs, torch.tensor([count]))
    return set(chosen[0].nonzero()[:, 0].tolist())


def order_by_rounds(row, there, images, grid, window):
    """In every round each window that has tokens left gives its best; in a round the best go first."""
    windows = defaultdict(list)
    for token in sorted(np.flatnonzero(there), key=lambda token: (-row[token], token)):
        windows[images[token], grid[token][0] // window, grid[token][1] // window].append(int(token))
    order = []
    while any(windows.values()):
        picks = [tokens.pop(0) for tokens in windows.values() if tokens]
        order += sorted(picks, key=lambda token: (-row[token], token))
    return order


def test_worked_example():
    inputs = SelectorInputs(valid=ALL, last_row=ROW, images=ONE_IMAGE, grid=LINE)
    assert kept(inputs, 2) == {2, 3}
    assert kept(inputs, 4) == {0, 2, 3, 5}
    assert kept(inputs, 1) == {3}, "the better window gets the extra token"
    assert kept(inputs, 3) == {2, 3, 5}


def test_two_rows_of_windows_and_two_images():
    """The same tokens as two rows of one image, and as two images: windows neither join rows nor images."""
    rows = torch.tensor([[[0, 0], [0, 1], [0, 2], [3, 0], [3, 1], [3, 2]]])
    for images, grid in ((ONE_IMAGE, rows), (torch.tensor([[0, 0, 0, 1, 1, 1]]), grid_of(1, 3).repeat(1, 2, 1))):
        inputs = SelectorInputs(valid=ALL, last_row=ROW, images=images, grid=grid)
        assert kept(inputs, 2) == {2, 3}
        assert kept(inputs, 4) == {0, 2, 3, 5}


def test_agrees_with_rounds_of_picks():
    random = np.random.default_rng(0)
    for window in (1, 2, 3, 4, 32) * 2:
        rows = random.permuted(np.tile(np.linspace(0.01, 1, 30, dtype=np.float32), (100, 1)), axis=1)
        valid = random.random((100, 30)) < random.choice([0.3, 0.8, 1.0], size=(100, 1))
        # Cells may be shared, images may be mixed: the order of the tokens is not the order of the grid.
        images = random.integers(0, random.integers(1, 4, size=(100, 1)), size=(100, 30))
        grid = random.integers(0, random.integers(1, 9, size=(100, 1, 2)), size=(100, 30, 2))
        grid[~valid] = random.integers(-99, 99, size=grid[~valid].shape)
        images[~valid] = random.integers(-9, 9, size=images[~valid].shape)
        parts = {"last_row": torch.tensor(rows), "images": torch.tensor(images), "grid": torch.tensor(grid)}
        ranks = WindowFastV(window).ranks(SelectorInputs(valid=torch.tensor(valid), **parts)).numpy()
        for place, row, there, image, cells in zip(ranks, rows, valid, images, grid, strict=True):
            order = order_by_rounds(row, there, image, cells, window)
            assert place.argsort()[: len(order)].tolist() == order


def test_the_papers_rule_where_it_says_something():
    """144 of 24 x 24: the best four of each of the 36 windows, joined."""
    row = torch.rand(1, 576, generator=torch.Generator().manual_seed(0))
    blocks = row.view(6, 4, 6, 4).transpose(1, 2).reshape(36, 16)
    fourth = blocks.sort(dim=1, descending=True).values[:, 3]
    expected = (blocks >= fourth[:, None]).view(6, 6, 4, 4).transpose(1, 2).reshape(1, 576)
    chosen = WindowFastV().choose(one_image(row, 24, 24), torch.tensor([144]))
    assert torch.equal(chosen, expected)


def test_windows_share_evenly():
    """5 x 7 in windows of 2: three sizes, and none gives more than one token less than another unless it is empty."""
    row = torch.rand(1, 35, generator=torch.Generator().manual_seed(1))
    windows = (grid_of(5, 7)[0] // 2 * torch.tensor([4, 1])).sum(dim=1)
    sizes = torch.bincount(windows)
    assert sorted(sizes.unique().tolist()) == [1, 2, 4]
    for count in range(36):
        given = torch.bincount(windows, WindowFastV(2).choose(one_image(row, 5, 7), torch.tensor([count]))[0].float())
        assert int(given.sum()) == count
        assert ((given >= given.max() - 1) | (given == sizes)).all()


def test_one_window_is_fastv():
    row = torch.rand(1, 35, generator=torch.Generator().manual_seed(2))
    inputs = one_image(row, 5, 7)
    for window in (1, 7, 32):  # a window of one token ranks by the score as well
        assert torch.equal(WindowFastV(window).ranks(inputs), FastV().ranks(inputs))


def test_ties_go_to_the_lower_index():
    inputs = one_image(torch.full((1, 16), 0.1), 4, 4)
    assert kept(inputs, 4, window=2) == {0, 2, 8, 10}
    assert kept(inputs, 5, window=2) == {0, 1, 2, 8, 10}


def test_tokens_with_their_places_in_another_order():
    row = torch.rand(1, 35, generator=torch.Generator().manual_seed(3))
    inputs, shuffle = one_image(row, 5, 7), torch.randperm(35, generator=torch.Generator().manual_seed(4))
    moved = SelectorInputs(
        valid=inputs.valid, last_row=row[:, shuffle], images=inputs.images, grid=inputs.grid[:, shuffle]
    )
    assert torch.equal(WindowFastV(3).ranks(moved), WindowFastV(3).ranks(inputs)[:, shuffle])


def test_nan_is_refused_where_it_counts():
    broken = ROW.clone()
    broken[0, 2] = torch.nan
    inputs = {"last_row": broken, "images": ONE_IMAGE, "grid": LINE}
    with pytest.raises(VispcoError, match="NaN"):
        WindowFastV().ranks(SelectorInputs(valid=ALL, **inputs))
    assert kept(SelectorInputs(valid=torch.arange(6)[None] != 2, **inputs), 2) == {0, 3}


@pytest.mark.parametrize("window", [1, 32])
def test_windows_that_are_taken(window):
    assert WindowFastV(window).window == window


@pytest.mark.parametrize("window", [0, 33, -1, 2.0, "4", None, True])
def test_windows_that_are_refused(window):
    with pytest.raises(
        ConfigError, match=r"^selector parameter window = .* is not a whole number in 1\.\.32"
    ) as caught:
        WindowFastV(window)
    assert repr(window) in str(caught.value)


def test_ranks_and_sizes_of_groups():
    ranks = torch.tensor([[3, 0, 2, 1, 4, 5]])
    groups = torch.tensor([[7, 7, 0, 7, 0, 9]])
    valid = torch.tensor([[True, True, True, False, True, True]])
    within, size = rank_in_groups(ranks, groups, valid)
    assert within[valid].tolist() == [1, 0, 0, 1, 0]
    assert size[valid].tolist() == [2, 2, 2, 2, 1]
