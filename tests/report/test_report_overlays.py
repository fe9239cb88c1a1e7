"""Dropped cells are dimmed, kept ones untouched, and small pictures grow by whole pixels."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vispco.errors import DataError
from vispco.report import Overlay
from vispco.report.overlays import REMAINS, SHADE, dim_dropped, panels, resized


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def test_dims_dropped_cells_alone():
    pixels = noise(7, 9)  # neither side is a multiple of its cells
    mask = np.array([[True, False], [False, True], [False, False]])
    seen = np.asarray(dim_dropped(Image.fromarray(pixels), mask, (3, 2)))
    for y in range(7):
        for x in range(9):
            expected = pixels[y, x] if mask[y * 3 // 7, x * 2 // 9] else REMAINS * pixels[y, x] + (1 - REMAINS) * SHADE
            assert np.abs(seen[y, x] - expected).max() <= 0.5, (y, x)
    bright = pixels.max(axis=2) > 60
    dropped = ~mask[np.ix_(np.arange(7) * 3 // 7, np.arange(9) * 2 // 9)]
    assert (seen.max(axis=2) < pixels.max(axis=2))[bright & dropped].all()


@pytest.mark.parametrize("mask", [np.ones((2, 3), bool), np.ones((3, 2), int), [[True, False]]])
def test_refuses_mask_that_does_not_fit(mask):
    with pytest.raises(DataError, match=r"does not fit grid \(3, 2\)"):
        dim_dropped(Image.new("RGB", (6, 6)), mask, (3, 2))


def test_small_pictures_grow_by_whole_pixels():
    pixels = noise(80, 40)
    assert np.array_equal(np.asarray(resized(Image.fromarray(pixels))), pixels.repeat(3, axis=0).repeat(3, axis=1))


def test_large_pictures_shrink():
    image = Image.new("RGB", (480, 120), "red")
    assert resized(image).size == (240, 60)
    assert image.size == (480, 120)


def test_panels_are_the_input_and_one_picture_per_mask():
    pixels = noise(80, 80)
    masks = [("layer 1", [[True, True], [True, False]]), ("layer 3", [[False, False], [True, False]])]
    found = panels(Overlay(Image.fromarray(pixels), (2, 2), masks, "q", "a", "s"))
    assert [caption for caption, _ in found] == ["input", "layer 1: 3 of 4", "layer 3: 1 of 4"]
    big = pixels.repeat(3, axis=0).repeat(3, axis=1)
    pictures = []
    for _, uri in found:
        head, _, body = uri.partition(",")
        assert head == "data:image/png;base64"
        pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))))
    assert np.array_equal(pictures[0], big)
    assert np.array_equal(pictures[2][120:, :120], big[120:, :120])
    assert pictures[2][:120].max() < 80


def test_transparent_and_grey_images_are_shown():
    overlays = [Overlay(Image.new(mode, (8, 8)), (1, 1), [("x", [[True]])], "", "", "") for mode in ("RGBA", "L", "P")]
    assert [len(panels(overlay)) for overlay in overlays] == [2, 2, 2]
