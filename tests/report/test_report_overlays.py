"""A picture is embedded once and exactly where that is cheap; masks become bits in a known order."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vispco.errors import DataError
from vispco.report import Overlay
from vispco.report.overlays import SIDE, drawn, image_uri


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def decoded(uri):
    head, _, body = uri.partition(",")
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def overlay(kept, grid=(3, 3)):
    return Overlay(Image.new("RGB", (6, 6)), grid, kept, "q", "a", "s")


def test_bits_go_row_by_row_the_first_the_highest():
    """Nine cells: 1 0 1, 0 0 0, 0 1 and then 1 in the second byte."""
    mask = np.array([[True, False, True], [False, False, False], [False, True, True]])
    found = drawn(overlay({4: mask, 2: ~mask}))
    assert (found["rows"], found["columns"]) == (3, 3)
    assert [layer for layer, _ in found["kept"]] == [2, 4]
    assert base64.b64decode(found["kept"][1][1]) == bytes([0b10100001, 0b10000000])
    assert base64.b64decode(found["kept"][0][1]) == bytes([0b01011110, 0b00000000])


@pytest.mark.parametrize("mask", [np.ones((2, 3), bool), np.ones((3, 2), int), [[True, False]]])
def test_refuses_mask_that_does_not_fit(mask):
    with pytest.raises(DataError, match=r"does not fit grid \(3, 2\)"):
        drawn(overlay({1: mask}, grid=(3, 2)))


def test_drawings_are_exact():
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[10:20, 30:] = (200, 30, 90)
    head, seen = decoded(image_uri(Image.fromarray(pixels)))
    assert head == "data:image/png;base64"
    assert np.array_equal(seen, pixels)


def test_photographs_are_small():
    uri = image_uri(Image.fromarray(noise(20, 20)).resize((300, 300), Image.Resampling.BICUBIC))
    assert uri.startswith("data:image/jpeg;base64")
    assert len(uri) < 300 * 300


def test_large_pictures_shrink():
    image = Image.new("RGB", (4 * SIDE, SIDE), "red")
    assert decoded(image_uri(image))[1].shape == (SIDE // 4, SIDE, 3)
    assert image.size == (4 * SIDE, SIDE)


def test_transparent_and_grey_images_are_shown():
    assert [decoded(image_uri(Image.new(mode, (8, 8))))[1].shape for mode in ("RGBA", "L", "P")] == [(8, 8, 3)] * 3
