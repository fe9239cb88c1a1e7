"""HiRED on pictures in tiles, against a slow twin."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.fastervlm import FasterVLM
from vispco.selectors.hired import HiRED
from vispco.testing.signals import make_signals


def picture(side, heights=(), widths=(), ends=False):
    """Crop and grid of an image: ``side`` x ``side`` patches, then a mosaic of tiles row by row, perhaps with row ends.

    Row ends are in the last tile of their row, one column past the last.
    """
    rows = [(0, r, c) for r in range(side) for c in range(side)]
    for r in range(sum(heights)):
        down = np.searchsorted(np.cumsum(heights), r, side="right")
        for c in range(sum(widths) + ends):
            across = min(np.searchsorted(np.cumsum(widths), c, side="right"), len(widths) - 1)
            rows.append((1 + down * len(widths) + across, side + r, c))
    return np.array(rows).reshape(-1, 3)


def inputs_of(tokens, row, first, images=None):
    tokens = torch.as_tensor(tokens)
    given = {
        "valid": torch.ones(1, len(tokens), dtype=torch.bool),
        "images": torch.zeros(1, len(tokens), dtype=torch.int64) if images is None else torch.as_tensor(images)[None],
        "crops": tokens[None, :, 0],
        "grid": tokens[None, :, 1:],
        "tower_row": torch.as_tensor(np.asarray(row)).float()[None],
        "tower_first_row": torch.as_tensor(np.asarray(first)).float()[None],
    }
    return SelectorInputs(**given)


def per_crop(inputs, count, alpha=0.5):
    """How many tokens of every crop stay."""
    kept = HiRED(alpha).choose(inputs, torch.tensor([count]))[0]
    return inputs.crops[0][kept].bincount(minlength=int(inputs.crops.max()) + 1).tolist()


def light(tokens, bright):
    """Attention that is larger at ``bright`` (row, column) of the whole picture."""
    return [1.0 if token[0] == 0 and tuple(token[1:]) in bright else 0.1 for token in tokens]


SQUARE = picture(4, (4, 4), (4, 4))
"""A whole picture of 4 x 4 and four tiles of 4 x 4."""


# --- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [(range(2), [8, 4, 0, 4, 0]), (range(2, 4), [8, 0, 4, 0, 4])],
)
def test_regions_have_two_dimensions(columns, expected):
    """The left or right half is bright. In stripes of the flat list, every tile would get the same."""
    first = light(SQUARE, {(r, c) for r in range(4) for c in columns})
    assert per_crop(inputs_of(SQUARE, np.ones(80), first), 16) == expected


def test_quotas_follow_the_bright_patches():
    """Of the 8 brightest, 4 are top left, 3 top right and 1 bottom right; 8 tokens are for the tiles."""
    bright = {(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 3), (3, 3)}
    inputs = inputs_of(SQUARE, np.linspace(1, 2, 80), light(SQUARE, bright))
    assert per_crop(inputs, 16) == [8, 4, 3, 0, 1]
    # 9/8 of 4, 3 and 1 is 4.5, 3.375 and 1.125: the largest remainder gets the ninth. The picture gets 8 of 17.
    assert per_crop(inputs, 17) == [8, 5, 3, 0, 1]
    # The picture gets its 16; the 48 that are left are shared 24, 18, 0, 6: 10 have no room. Tile 4 takes them.
    assert per_crop(inputs, 64) == [16, 16, 16, 0, 16]
    # All of these are full: tile 3 takes what is left.
    assert per_crop(inputs, 70) == [16, 16, 16, 6, 16]
    kept = HiRED().choose(inputs, torch.tensor([16]))[0]
    for crop, quota in enumerate([8, 4, 3, 0, 1]):
        there = inputs.crops[0] == crop
        best = there.nonzero()[:, 0][-quota:].tolist() if quota else []  # attention rises with the index
        assert (kept & there).nonzero()[:, 0].tolist() == best


def test_tiles_without_a_bright_patch_wait_for_the_whole_picture():
    """Tiles of one token. Of 12, the picture gets 9 and the bright tile 1; the picture takes the 2 that are left."""
    tokens = picture(4, (1, 1), (1, 1))
    inputs = inputs_of(tokens, np.ones(20), light(tokens, {(0, 0), (0, 1), (1, 0), (1, 1)}))
    assert per_crop(inputs, 12, alpha=0.75) == [11, 1, 0, 0, 0]
    assert per_crop(inputs, 17, alpha=0.75) == [16, 1, 0, 0, 0]
    assert per_crop(inputs, 19, alpha=0.75) == [16, 1, 1, 1, 0]


def test_without_bright_patches_the_picture_goes_first():
    """alpha = 1 counts no patch."""
    inputs = inputs_of(SQUARE, np.ones(80), np.ones(80))
    assert [per_crop(inputs, count, alpha=1) for count in (9, 16, 18)] == [
        [9, 0, 0, 0, 0],
        [16, 0, 0, 0, 0],
        [16, 1, 1, 0, 0],
    ]


def test_alpha_zero_counts_all_patches():
    inputs = inputs_of(SQUARE, np.ones(80), np.linspace(0.1, 1, 80))
    assert per_crop(inputs, 20, alpha=0) == [0, 5, 5, 5, 5]


def test_regions_are_those_of_a_cropped_mosaic():
    """Tiles of 4 x 2 and 4 x 6 patches: the border is at a quarter of the picture, between its columns 0 and 1."""
    tokens = picture(4, (4,), (2, 6))
    first = light(tokens, {(0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (3, 3), (3, 2), (2, 3)})
    assert per_crop(inputs_of(tokens, np.ones(len(tokens)), first), 16) == [8, 2, 6]


def test_row_ends_are_no_patches():
    """They neither move the border nor stay while a patch is left."""
    # With row ends the mosaic would be 5 wide, and the picture's column 1 in the left tile as well.
    tokens = picture(4, (4,), (1, 3), ends=True)
    ends = (tokens[:, 0] > 0) & (tokens[:, 2] == 4)
    assert ends.sum() == 4
    first = np.array(light(tokens, {(0, 1), (1, 1), (2, 1), (3, 1), (0, 0), (1, 0), (2, 0), (3, 0)}))
    row = np.ones(len(tokens))
    first[ends], row[ends] = 0.0, 0.0
    inputs = inputs_of(tokens, row, first)
    assert per_crop(inputs, 8) == [4, 2, 2]
    for count in range(len(tokens) - 3):
        assert not (HiRED().choose(inputs, torch.tensor([count]))[0] & torch.from_numpy(ends)).any()
    # Neither does it matter which crop they are said to be of.
    elsewhere = replace(inputs, crops=inputs.crops.masked_fill(torch.from_numpy(ends), 0))
    assert per_crop(elsewhere, 8) == [4, 2, 2]


def test_images_without_tiles_are_fastervlm_by_image():
    inputs = make_signals(torch.rand(6, 20, generator=torch.Generator().manual_seed(0)) < 0.8, HiRED.needs)
    inputs = replace(inputs, crops=torch.zeros_like(inputs.crops))
    single = replace(inputs, images=torch.zeros_like(inputs.images))
    counts = inputs.valid.sum(dim=1) // 2
    assert torch.equal(HiRED().choose(single, counts), FasterVLM().choose(single, counts))
    by_image = HiRED().choose(inputs, counts)
    for image in range(2):
        there = inputs.valid & (inputs.images == image)
        part = FasterVLM().choose(replace(inputs, valid=there), (by_image & there).sum(dim=1))
        assert torch.equal(part, by_image & there)


def test_images_share_in_proportion_to_their_tokens():
    both = np.concatenate([picture(2), SQUARE])
    images = [0] * 4 + [1] * 80
    inputs = inputs_of(both, np.ones(84), np.ones(84), images)
    kept = HiRED().choose(inputs, torch.tensor([42]))[0]
    assert inputs.images[0][kept].bincount().tolist() == [2, 40]


# --- slow twin -------------------------------------------------------------------------------------------------------


def hand_out(left, weight, quota, room):
    """Add ``left`` tokens to ``quota`` by largest remainder, as often as parts are full; what is left then."""
    while left and any(quota[c] < room[c] for c in weight):
        fits = [c for c in weight if quota[c] < room[c]]
        share = {c: Fraction(left * weight[c], sum(weight[c] for c in fits)) for c in fits}
        gets = {c: int(share[c]) for c in fits}
        for c in sorted(fits, key=lambda c: (gets[c] - share[c], c))[: left - sum(gets.values())]:
            gets[c] += 1
        for c in fits:
            taken = min(gets[c], room[c] - quota[c])
            quota[c] += taken
            left -= taken
    return left


def twin(tokens, row, first, count, alpha):
    """One image: kept indices."""
    alpha = Fraction(str(alpha))
    crops = sorted({int(token[0]) for token in tokens} | {0})
    of = {c: [j for j in range(len(tokens)) if tokens[j][0] == c] for c in crops}
    patches = {c: [j for j in of[c] if row[j] or first[j]] for c in crops}
    room, quota = {c: len(of[c]) for c in crops}, dict.fromkeys(crops, 0)
    quota[0] = min(int(count * alpha), len(patches[0]))
    brightest = sorted(patches[0], key=lambda j: (-first[j], j))[: int(len(patches[0]) * (1 - alpha))]

    def span(members, axis):
        at = [int(tokens[j][axis]) for j in members]
        return min(at), max(at) + 1

    hits = dict.fromkeys(crops[1:], 0)
    mosaic = [j for c in crops[1:] for j in patches[c]]
    for j in brightest:
        for c in crops[1:]:
            inside = bool(patches[c])
            for axis in (1, 2) if inside else ():
                low, high = span(patches[0], axis)
                start, stop = span(mosaic, axis)
                at = start + (int(tokens[j][axis]) - low + Fraction(1, 2)) / (high - low) * (stop - start)
                top, bottom = span(patches[c], axis)
                inside = inside and top <= at < bottom
            hits[c] += inside
    left = hand_out(count - quota[0], {c: h for c, h in hits.items() if h}, quota, room)
    taken = min(left, room[0] - quota[0])
    quota[0] += taken
    hand_out(left - taken, {c: room[c] - quota[c] for c in crops if room[c] > quota[c]}, quota, room)
    return {j for c in crops for j in sorted(of[c], key=lambda j: (-row[j], j))[: quota[c]]}


def draw(generator):
    """One or two images in tiles of any size, of which some tokens are gone."""
    parts = []
    for _ in range(int(generator.integers(1, 3))):
        shape = [tuple(generator.integers(1, 4, generator.integers(0, 4))) for _ in range(2)]
        tiles = shape if all(shape) else [(), ()]
        parts.append(picture(int(generator.integers(1, 5)), *tiles, ends=bool(generator.integers(2))))
    tokens = np.concatenate(parts)
    images = np.concatenate([[image] * len(part) for image, part in enumerate(parts)])
    row, first = generator.integers(0, 9, (2, len(tokens))) / 8
    return tokens, images, row, first, generator.random(len(tokens)) < generator.random() * 1.5


@pytest.mark.parametrize("alpha", [0.5, 0.25, 0.0, 0.8, 1.0])
def test_thousand_random_cases(alpha):
    """Batches of ten samples, padded with anything."""
    generator = np.random.default_rng(int(alpha * 100))
    for _ in range(20):
        samples = [draw(generator) for _ in range(10)]
        longest = max(len(sample[0]) for sample in samples)

        def padded(part, samples=samples, longest=longest):
            arrays = [np.asarray(sample[part]) for sample in samples]
            fill = [np.full((longest - len(array), *array.shape[1:]), -7).astype(array.dtype) for array in arrays]
            return torch.from_numpy(np.stack([np.concatenate(pair) for pair in zip(arrays, fill, strict=True)]))

        tokens = padded(0)
        valid = padded(4) & (
            torch.arange(longest)[None] < torch.tensor([len(sample[0]) for sample in samples])[:, None]
        )
        inputs = SelectorInputs(
            valid=valid,
            images=padded(1),
            crops=tokens[..., 0],
            grid=tokens[..., 1:],
            tower_row=padded(2).float(),
            tower_first_row=padded(3).float(),
        )
        counts = torch.from_numpy(generator.integers(0, valid.sum(dim=1).numpy() + 1))
        chosen = HiRED(alpha).choose(inputs, counts)
        assert torch.equal(chosen.sum(dim=1), counts)
        for kept, (crops, images, row, first, _), there in zip(chosen, samples, valid, strict=True):
            for image in set(images.tolist()):
                members = [j for j in range(len(images)) if images[j] == image and there[j]]
                got = {j for j in members if kept[j]}
                parts = [part[members] for part in (crops, row, first)]
                assert got == {members[j] for j in twin(*parts, len(got), alpha)}


# --- broken numbers and parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tower_row", "tower_first_row"])
def test_nan_is_refused_where_it_counts(name):
    """In a tile as well, though the first layer's attention is not looked at there."""
    inputs = inputs_of(SQUARE, np.ones(80), np.ones(80))
    broken = getattr(inputs, name).clone()
    broken[0, 70] = torch.nan
    with pytest.raises(VispcoError, match="NaN"):
        HiRED().choose(replace(inputs, **{name: broken}), torch.tensor([10]))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half", True, None])
def test_parameters_that_are_refused(value):
    with pytest.raises(ConfigError, match=r"^selector parameter alpha = .* is not a number in 0\.\.1; choose one$"):
        HiRED(value)
