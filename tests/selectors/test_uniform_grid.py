"""The uniform grid: strided grids, even quadrants, images in proportion."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from vispco.selectors import SelectorInputs
from vispco.selectors.uniform_grid import UniformGrid


def grid_of(height, width):
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


def picture(*sides):
    """One sample with an image of every given height and width."""
    images = torch.cat([torch.full((height * width,), image) for image, (height, width) in enumerate(sides)])[None]
    grid = torch.cat([grid_of(height, width) for height, width in sides])[None]
    return SelectorInputs(valid=torch.ones(images.shape, dtype=torch.bool), images=images, grid=grid)


def kept(inputs, count):
    return UniformGrid().choose(inputs, torch.tensor([count]))[0]


def bayer(size):
    """The matrix by its recursion."""
    if size == 1:
        return np.zeros((1, 1), dtype=int)
    half = 4 * bayer(size // 2)
    return np.block([[half, half + 2], [half + 3, half + 1]])


def order_by_seats(there, images, grid, matrix):
    """Seat after seat to the image with the highest quotient tokens / (2 seats + 1); inside, by the matrix."""
    queues = {}
    for token in sorted(np.flatnonzero(there), key=lambda token: (matrix[tuple(grid[token])], token)):
        queues.setdefault(int(images[token]), []).append(int(token))
    sizes, seats, order = {image: len(queue) for image, queue in queues.items()}, dict.fromkeys(queues, 0), []
    while queues:
        image = max(queues, key=lambda image: (Fraction(sizes[image], 2 * seats[image] + 1), -queues[image][0]))
        order.append(queues[image].pop(0))
        seats[image] += 1
        if not queues[image]:
            del queues[image]
    return order


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 16), (24, 24), (12, 20)])
def test_quarters_are_strided_grids(height, width):
    inputs = picture((height, width))
    for stride in (2, 4):
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[::stride, ::stride] = True
        assert torch.equal(kept(inputs, int(expected.sum())).view(height, width), expected)
    expected = torch.zeros(height, width, dtype=torch.bool)
    expected[::2, ::2] = expected[1::2, 1::2] = True
    assert torch.equal(kept(inputs, height * width // 2).view(height, width), expected)


@pytest.mark.parametrize(("height", "width", "bound"), [(8, 8, 1), (16, 16, 1), (12, 12, 4), (24, 24, 4)])
def test_quadrants_are_even(height, width, bound):
    inputs = picture((height, width))
    for count in range(height * width + 1):
        chosen = kept(inputs, count).view(2, height // 2, 2, width // 2)
        quadrants = chosen.sum(dim=(1, 3))
        assert int(quadrants.sum()) == count
        assert int(quadrants.max() - quadrants.min()) <= bound


def test_agrees_with_the_recursion_and_seats():
    random = np.random.default_rng(0)
    matrix = bayer(32)
    for _ in range(10):
        valid = random.random((100, 24)) < random.choice([0.3, 0.8, 1.0], size=(100, 1))
        # Cells may be shared, images may be mixed: the order of the tokens is not the order of the grid.
        images = random.integers(0, random.integers(1, 5, size=(100, 1)), size=(100, 24))
        grid = random.integers(0, random.integers(1, 33, size=(100, 1, 2)), size=(100, 24, 2))
        junk = grid.copy()
        junk[~valid] = random.integers(-99, 99, size=grid[~valid].shape)
        images[~valid] = random.integers(-9, 9, size=images[~valid].shape)
        parts = {"images": torch.tensor(images), "grid": torch.tensor(junk)}
        ranks = UniformGrid().ranks(SelectorInputs(valid=torch.tensor(valid), **parts)).numpy()
        for place, there, image, cells in zip(ranks, valid, images, grid, strict=True):
            order = order_by_seats(there, image, cells, matrix)
            assert place.argsort()[: len(order)].tolist() == order


@pytest.mark.parametrize("sides", [((8, 8), (8, 8)), ((24, 24), (4, 6)), ((5, 7), (9, 3))])
def test_two_images_share_in_proportion(sides):
    inputs = picture(*sides)
    first = inputs.images[0] == 0
    for count in range(inputs.valid.shape[1] + 1):
        given = int(kept(inputs, count)[first].sum())
        assert abs(given - count * float(first.float().mean())) <= 0.5 + 1e-6


def test_every_image_gets_its_own_grid():
    """Three images of one size: each as if it were alone."""
    alone, together = picture((6, 10)), picture((6, 10), (6, 10), (6, 10))
    for count in range(61):
        assert torch.equal(kept(together, 3 * count).view(3, 60), kept(alone, count).expand(3, 60))


def test_deeper_cuts_of_one_image_are_as_if_cut_once():
    inputs = picture((24, 24))
    first = UniformGrid().choose(inputs, torch.tensor([200]))
    again = SelectorInputs(valid=first, images=inputs.images, grid=inputs.grid)
    assert torch.equal(kept(again, 77), kept(inputs, 77))


def test_tokens_with_their_places_in_another_order():
    inputs, shuffle = picture((5, 7)), torch.randperm(35, generator=torch.Generator().manual_seed(0))
    moved = SelectorInputs(valid=inputs.valid, images=inputs.images, grid=inputs.grid[:, shuffle])
    assert torch.equal(UniformGrid().ranks(moved), UniformGrid().ranks(inputs)[:, shuffle])


def test_tokens_in_one_cell_stay_in_their_order():
    inputs = SelectorInputs(
        valid=torch.ones(1, 40, dtype=torch.bool),
        images=torch.zeros(1, 40, dtype=torch.int64),
        grid=torch.full((1, 40, 2), 3),
    )
    assert UniformGrid().ranks(inputs)[0].tolist() == list(range(40))


def test_large_grids():
    """Sides of up to 65 536 tokens: the highest bit of a place counts, after all others."""
    cells = torch.tensor([[[32768, 0], [0, 32768], [32768, 32768], [0, 0], [16384, 16384]]])
    inputs = SelectorInputs(
        valid=torch.ones(1, 5, dtype=torch.bool), images=torch.zeros(1, 5, dtype=torch.int64), grid=cells
    )
    assert UniformGrid().ranks(inputs)[0].argsort().tolist() == [3, 2, 1, 0, 4]


def test_shares_are_exact():
    """8377 / 4189 and 8373 / 4187 are the same number in single precision; the second is the lower one."""
    inputs = picture((1, 4189), (1, 4187))
    turns = [(2 * seat + 1) * 4187 for seat in range(4189)] + [(2 * seat + 1) * 4189 for seat in range(4187)]
    expected = torch.tensor(sorted(range(len(turns)), key=lambda token: turns[token])) >= 4189
    assert torch.equal(inputs.images[0, UniformGrid().ranks(inputs)[0].argsort()] == 1, expected)


def test_needs_the_places_alone():
    assert UniformGrid.needs == {"grid"}
