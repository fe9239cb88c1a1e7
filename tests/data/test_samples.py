"""Pictures are looked at once and decoded on demand; samples are made from rows."""

import os
from pathlib import Path

import pytest
from PIL import Image
from tables import picture, png_of_size

from vispco.data import Picture, Row, Sample, Source, Task
from vispco.data import samples as module
from vispco.errors import DataError

REAL = Path(os.environ.get("VISPCO_REAL_DATA") or Path(__file__).parents[2] / "../shared/data/nlvr_dev.tsv")


def sample(content, index="2"):
    return Task().sample(Row(index, "table.tsv, line 2", Picture(content), "q", ("a",)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_are_rgb_and_not_kept(tmp_path, mode):
    Image.new(mode, (5, 6)).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        found = sample(source)
        assert (found.image.mode, found.image.size) == ("RGB", (5, 6))
        assert found.image is not found.image, "a thousand photographs do not fit into memory"


def test_image_without_its_pixels_is_refused_when_looked_at():
    with pytest.raises(DataError, match=r"sample 2: image cannot be decoded"):
        _ = sample(png_of_size(8, 8)).image


def test_a_picture_in_a_file_is_the_same_as_in_memory(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    for other in (Picture(tmp_path / "a.png"), Picture(picture())):
        assert other.digest() == Picture(picture()).digest() != Picture(picture(color=(0, 0, 0))).digest()
        assert other.size() == (4, 3)


def test_a_picture_is_looked_at_once(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    one = Picture(tmp_path / "a.png")
    before = one.size(), one.digest()
    (tmp_path / "a.png").unlink()
    assert (one.size(), one.digest()) == before


def test_long_files_are_not_opened(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(picture())
    monkeypatch.setattr(module, "MAX_BYTES", len(picture()))
    assert Picture(tmp_path / "a.png").size() == Picture(picture()).size() == (4, 3)
    monkeypatch.setattr(module, "MAX_BYTES", len(picture()) - 1)
    for source in (tmp_path / "a.png", picture()):
        with pytest.raises(ValueError, match=rf"image of {len(picture())} bytes is over the limit"):
            Picture(source).size()


@pytest.mark.skipif(
    not REAL.is_file(), reason=f"no table at {REAL}; set VISPCO_REAL_DATA to the NLVR development split"
)
def test_real_table():
    source = Source(str(REAL))
    samples = source.draw("dev", 1000).samples
    assert len(samples) == 989
    assert len({sample.index for sample in samples}) == 989
    assert {sample.answer for sample in samples} == {"Yes", "No"}
    assert {(sample.slice, sample.split) for sample in samples} == {("nlvr", "dev")}
    assert all(sample.question.startswith("Is this true of the picture? ") for sample in samples)
    assert {sample.image.size for sample in samples[::50]} == {(400, 100)}
    assert source.draw("dev", 3).samples == samples[:3]
    with pytest.raises(DataError, match=r"the splits of its rows are dev \(989 rows\); .* data\.split_by=hash$"):
        source.draw("validation", 3)


def test_a_sample_without_other_references_has_one():
    assert Sample("1", Picture(b""), "q", "a", "all").references == ("a",)


@pytest.mark.parametrize("size", [(1, 201), (10_000, 1), (2, 1000), (1, 64_000_000)])
def test_ribbons_are_refused_before_they_are_decoded(size):
    """A processor that scales the short side to 336 would make 20 billion pixels of the last one."""
    width, height = size
    with pytest.raises(
        ValueError, match=rf"image of {width} x {height} pixels is longer than 200 times its other side"
    ):
        Picture(png_of_size(width, height)).size()
    turned = Picture(png_of_size(200 * min(size), min(size)))
    assert turned.size() == (200 * min(size), min(size))
