"""Pooling against plain average pooling and against a slow twin."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import avg_pool2d

from vispco.errors import ConfigError
from vispco.selectors import SelectorInputs, make_selector
from vispco.selectors.merging import share_out
from vispco.selectors.pooling import Pooling, cut_cells


def grid_of(height, width):
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


def picture(*sides, sizes=None, valid=None):
    """One sample with an image of every given height and width."""
    images = torch.cat([torch.full((height * width,), image) for image, (height, width) in enumerate(sides)])[None]
    grid = torch.cat([grid_of(height, width) for height, width in sides])[None]
    return SelectorInputs(
        valid=torch.ones(images.shape, dtype=torch.bool) if valid is None else valid,
        images=images,
        sizes=torch.ones(images.shape) if sizes is None else sizes,
        grid=grid,
    )


def random_inputs(samples, visual, generator, mixed=False):
    """Dense and sparse grids, images one after the other, or with ``mixed`` in any order and with shared places."""

    def whole(high, *shape):
        return torch.randint(high, shape, generator=generator)

    images = whole(3, samples, visual)
    places = torch.rand(samples, 30, generator=generator).argsort(dim=1)[:, :visual].sort(dim=1).values
    grid = torch.stack([places // 5, places % 5], dim=-1)
    if mixed:
        grid = torch.stack([whole(4, samples, visual), whole(7, samples, visual)], dim=-1)
    else:
        images = images.sort(dim=1).values
    valid = torch.rand(samples, visual, generator=generator) < torch.rand(samples, 1, generator=generator) + 0.2
    counts = (torch.rand(samples, generator=generator) * (valid.sum(dim=1) + 1)).long()
    return SelectorInputs(valid=valid, images=images, sizes=1.0 + whole(4, samples, visual), grid=grid), counts


def cut(lines, parts, room):
    """A list of lines, each a list of tokens, as a list of parts, one border after the other."""
    tokens = [token for line in lines for token in line]
    shares = [(i + 1) * room // parts - i * room // parts for i in range(parts)]
    borders = [0]
    for i in range(1, parts):
        if parts <= len(lines):
            wanted = sum(len(line) for line in lines[: i * len(lines) // parts])
        else:
            wanted = i * len(tokens) // parts
        at_least, at_most = borders[-1] + shares[i - 1], len(tokens) - sum(shares[i:])
        borders.append(min(max(wanted, at_least), at_most))
    borders.append(len(tokens))
    return [tokens[a:b] for a, b in pairwise(borders)], shares


def in_lines(tokens, line_of, across):
    lines = {}
    for token in sorted(tokens, key=lambda token: (line_of[token], across[token], token)):
        lines.setdefault(line_of[token], []).append(token)
    return [lines[line] for line in sorted(lines)]


def oracle(tokens, rows, columns, count):
    """Cells of one image and their middles, token by token."""
    if not count:
        return []
    height, width = len({rows[t] for t in tokens}), len({columns[t] for t in tokens})
    strips = math.floor(math.sqrt(count * height / width) + 0.5)
    strips = min(max(strips, math.ceil(count / width)), height, count)
    cells = []
    for strip, cells_of_strip in zip(*cut(in_lines(tokens, rows, columns), strips, count), strict=True):
        found, _ = cut(in_lines(strip, columns, rows), cells_of_strip, cells_of_strip)
        cells += found
    chosen = []
    for cell in cells:
        middle = [Fraction(sum(side[t] for t in cell), len(cell)) for side in (rows, columns)]
        far = [((rows[t] - middle[0]) ** 2 + (columns[t] - middle[1]) ** 2, rows[t], columns[t], t) for t in cell]
        chosen.append((min(far)[3], cell))
    return chosen


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(24, 24, 2), (24, 24, 3), (24, 24, 1), (24, 24, 24), (12, 20, 2), (27, 9, 3), (6, 2, 2)],
)
def test_blocks_of_equal_size_are_average_pooling(height, width, side):
    states = torch.randn(height * width, 5, generator=torch.Generator().manual_seed(0))
    choice = Pooling().merge(picture((height, width)), torch.tensor([height * width // side**2]))
    expected = avg_pool2d(states.T.reshape(5, height, width), side).flatten(1).T
    torch.testing.assert_close(choice.weights[0] @ states, expected, rtol=0, atol=1e-6)
    assert torch.equal(choice.weights[0] > 0, choice.weights[0] == 1 / torch.tensor(float(side**2)))
    middle = torch.zeros(height, width, dtype=torch.bool)
    middle[(side - 1) // 2 :: side, (side - 1) // 2 :: side] = True
    assert torch.equal(choice.kept.view(height, width), middle)


def test_worked_example():
    """Rows of 3, 1 and 2 tokens: 3 tokens are 2 strips, [0 1 2] and, of 2 rows, [3] [4 5] by column."""
    grid = torch.tensor([[[0, 0], [0, 1], [0, 4], [1, 0], [2, 1], [2, 4]]])
    inputs = SelectorInputs(
        valid=torch.ones(1, 6, dtype=torch.bool),
        images=torch.zeros(1, 6, dtype=torch.int64),
        sizes=torch.tensor([[1.0, 2.0, 1.0, 1.0, 3.0, 1.0]]),
        grid=grid,
    )
    choice = Pooling().merge(inputs, torch.tensor([3]))
    assert choice.kept[0].nonzero()[:, 0].tolist() == [1, 3, 4]
    assert choice.weights[0].tolist() == [[0.25, 0.5, 0.25, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0.75, 0.25]]


@pytest.mark.parametrize("mixed", [False, True])
def test_thousand_random_cases(mixed):
    generator = torch.Generator().manual_seed(int(mixed))
    for case in range(50):
        inputs, counts = random_inputs(20, case % 30, generator, mixed)
        choice, quotas = Pooling().merge(inputs, counts), share_out(counts, inputs.images, inputs.valid)
        for sample in range(20):
            rows, columns = inputs.grid[sample].unbind(dim=-1)
            expected = {}
            for image, quota in enumerate(quotas[sample].tolist()):
                tokens = (inputs.valid[sample] & (inputs.images[sample] == image)).nonzero()[:, 0].tolist()
                expected |= dict(oracle(tokens, rows.tolist(), columns.tolist(), quota))
            kept = choice.kept[sample].nonzero()[:, 0].tolist()
            assert kept == sorted(expected)
            weights = torch.zeros(choice.weights.shape[1:])
            for row, token in enumerate(kept):
                sizes = inputs.sizes[sample, expected[token]]
                weights[row, expected[token]] = sizes / sizes.sum()
            torch.testing.assert_close(choice.weights[sample], weights)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (5, 9), (11, 4), (1, 13), (13, 1)])
def test_cells_of_a_whole_grid_are_rectangles(height, width):
    """Whole rows and columns; heights, widths in a strip and cells per strip differ by at most one."""
    grid, images = grid_of(height, width)[None], torch.zeros(1, height * width, dtype=torch.int64)
    for count in range(1, height * width + 1):
        cell = cut_cells(grid, images, torch.ones(1, height * width, dtype=torch.bool), torch.tensor([[count]]))
        strips = {}
        for number in range(count):
            inside = grid[0, cell[0] == number]
            low, high = inside.amin(dim=0), inside.amax(dim=0) + 1
            assert (high - low).prod() == len(inside) > 0
            strips.setdefault((int(low[0]), int(high[0])), []).append(int(high[1] - low[1]))
        heights = [high - low for low, high in strips]
        cells = [len(widths) for widths in strips.values()]
        assert sum(heights) == height
        assert all(sum(widths) == width for widths in strips.values())
        for even in (heights, cells, *strips.values()):
            assert max(even) - min(even) <= 1


def test_cells_are_about_square():
    """Of 12 x 20 tokens, 15 are 3 x 5 and 60 are 6 x 10; of 24 x 24, 100 are 10 x 10."""
    for height, width, count, strips in ((12, 20, 15, 3), (12, 20, 60, 6), (24, 24, 100, 10), (20, 12, 15, 5)):
        kept = Pooling().choose(picture((height, width)), torch.tensor([count])).view(height, width)
        assert int(kept.any(dim=1).sum()) == strips
        assert int(kept.any(dim=0).sum()) == count // strips


def test_a_later_cut_averages_original_tokens():
    """24 x 24 to 144 to 36, and to 60 to 36 with cells that are not alike: means of what they stand for."""
    states = torch.randn(576, 4, generator=torch.Generator().manual_seed(2))
    for first in (144, 60):
        inputs = picture((24, 24))
        choice = Pooling().merge(inputs, torch.tensor([first]))
        into = torch.zeros(576, 576)
        into[choice.kept[0]] = choice.weights[0]
        sizes = ((into > 0).float() @ inputs.sizes[0])[None]
        later = Pooling().merge(picture((24, 24), sizes=sizes, valid=choice.kept), torch.tensor([36])).weights[0]
        together = later @ into
        members = together > 0
        assert members.sum(dim=0).tolist() == [1] * 576
        torch.testing.assert_close(together, members / members.sum(dim=1, keepdim=True))
        if first == 144:
            expected = avg_pool2d(states.T.reshape(4, 24, 24), 4).flatten(1).T
            torch.testing.assert_close(together @ states, expected, rtol=0, atol=1e-6)


def test_images_share_and_never_mix():
    inputs = picture((8, 8), (4, 4), (2, 8))
    choice = Pooling().merge(inputs, torch.tensor([48]))
    assert [int(choice.kept[0][inputs.images[0] == image].sum()) for image in range(3)] == [32, 8, 8]
    owners = inputs.images[0][choice.kept[0]]
    assert not choice.weights[0][owners[:, None] != inputs.images].any()
    # Fewer tokens than images: those without one are gone.
    few = Pooling().merge(inputs, torch.tensor([2]))
    assert inputs.images[few.kept].tolist() == [0, 1]
    assert not few.weights[0][:, inputs.images[0] == 2].any()


def test_a_crowded_row_and_crowded_column():
    """One row, or column, that holds nearly all tokens, next to lone ones: every count is exact, no cell empty."""
    crowd = torch.stack([torch.zeros(12, dtype=torch.int64), torch.arange(12)], dim=1)
    lone = torch.tensor([[1, 3], [2, 3], [3, 3]])
    for places in (torch.cat([crowd, lone]), torch.cat([lone, crowd + torch.tensor([4, 0])])):
        for grid in (places, places.flip(1)):
            grid = grid[((grid[:, 0] << 8) + grid[:, 1]).argsort()]
            for count in range(16):
                inputs = SelectorInputs(
                    valid=torch.ones(1, 15, dtype=torch.bool),
                    images=torch.zeros(1, 15, dtype=torch.int64),
                    sizes=torch.ones(1, 15),
                    grid=grid[None],
                )
                choice = Pooling().merge(inputs, torch.tensor([count]))
                assert choice.weights.shape == (1, count, 15)
                assert (choice.weights > 0).any(dim=2).all()
                assert (choice.weights > 0).sum(dim=1).tolist() == [[int(count > 0)] * 15]


def test_follows_a_permutation():
    generator = torch.Generator().manual_seed(3)
    inputs, counts = random_inputs(30, 24, generator)
    order = torch.randperm(24, generator=generator)
    shuffled = SelectorInputs(**{name: value[:, order] for name, value in vars(inputs).items() if value is not None})
    plain, other = Pooling().merge(inputs, counts), Pooling().merge(shuffled, counts)
    assert torch.equal(other.kept, plain.kept[:, order])
    for sample, count in enumerate(counts.tolist()):
        rows = order.argsort()[plain.kept[sample].nonzero()[:, 0]].argsort()
        assert torch.equal(other.weights[sample, :count], plain.weights[sample, :count][rows][:, order])


def test_what_is_not_there_does_not_matter():
    generator = torch.Generator().manual_seed(4)
    inputs, counts = random_inputs(30, 24, generator)
    gone = ~inputs.valid
    junk = SelectorInputs(
        valid=inputs.valid,
        images=inputs.images.masked_fill(gone, 0),
        sizes=inputs.sizes.masked_fill(gone, torch.nan),
        grid=inputs.grid.masked_fill(gone[..., None], 10**15),
    )
    plain, other = Pooling().merge(inputs, counts), Pooling().merge(junk, counts)
    assert torch.equal(other.kept, plain.kept)
    assert torch.equal(other.weights, plain.weights)


@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("samples", [1, 3])
def test_few_tokens_in_one_place(samples, tokens):
    inputs = SelectorInputs(
        valid=torch.ones(samples, tokens, dtype=torch.bool),
        images=torch.zeros(samples, tokens, dtype=torch.int64),
        sizes=torch.ones(samples, tokens),
        grid=torch.zeros(samples, tokens, 2, dtype=torch.int64),
    )
    for count in range(tokens + 1):
        choice = Pooling().merge(inputs, torch.full((samples,), count))
        assert choice.kept.tolist() == [[True] * count + [False] * (tokens - count)] * samples
        assert choice.weights.shape == (samples, count, tokens)


def test_it_has_no_parameters():
    with pytest.raises(ConfigError, match=r"^selector 'pooling' does not take parameters \{'window': 2\} .*$"):
        make_selector("pooling", {"window": 2})
