"""Tables are read as they are, and what is wrong with one is named by file and line."""

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from vispco.data import Picture, Row, Task, load_samples, read_tsv
from vispco.errors import DataError

REAL = Path(os.environ.get("VISPCO_REAL_DATA") or Path(__file__).parents[2] / "../shared/data/nlvr_dev.tsv")


def encoded(image=None, kind="PNG"):
    image = image or Image.new("RGB", (4, 3), (250, 10, 20))
    file = io.BytesIO()
    image.save(file, format=kind)
    return base64.b64encode(file.getvalue()).decode()


def png_of_size(width, height):
    """A PNG that says how large it is and holds nothing."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)).decode()


@pytest.fixture
def table(tmp_path):
    def write(*rows, header=("image", "question", "answer"), end="\n"):
        path = tmp_path / "table.tsv"
        lines = [header, *rows]
        path.write_bytes("".join(row if isinstance(row, str) else "\t".join(row) + end for row in lines).encode())
        return path

    return write


def refusal(path):
    with pytest.raises(DataError) as caught:
        list(read_tsv(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_all_columns(table, end):
    path = table(
        ("train", "what is größer ?", "red", encoded(), "a-7", "colour"),
        ("test", '"quoted ""so"" and\ttabbed"', "", encoded(kind="JPEG"), "", "reading"),
        header=("split", "question", "answer", "image", "index", "category"),
        end=end,
    )
    first, second = map(Task().sample, read_tsv(path))
    assert (first.index, first.question, first.answer) == ("a-7", "what is größer ?", "red")
    assert (first.slice, first.split) == ("colour", "train")
    assert base64.b64encode(first.picture.encoded).decode() == encoded()
    assert (second.index, second.question, second.answer) == ("3", 'quoted "so" and\ttabbed', "")
    assert second.image.size == (4, 3)


def test_required_columns_alone(table):
    path = table((encoded(), "q", "a"))
    (row,) = read_tsv(path)
    picture = Picture(base64.b64decode(encoded()))
    assert row == Row(index="2", place=f"{path}, line 2", picture=picture, question="q", answers=("a",))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_are_rgb_and_decoded_once(table, mode):
    (sample,) = map(Task().sample, read_tsv(table((encoded(Image.new(mode, (5, 6))), "q", "a"))))
    assert sample.image.mode == "RGB"
    assert sample.image.size == (5, 6)
    assert sample.image is sample.image


def test_reading_is_lazy(table):
    rows = read_tsv(table((encoded(), "q", "a"), ("!", "q", "a")))
    assert next(rows).question == "q"
    with pytest.raises(DataError, match="line 3"):
        next(rows)


@pytest.mark.parametrize("column", ["image", "question", "answer"])
def test_missing_column(table, column):
    header = tuple(name for name in ("image", "question", "answer") if name != column)
    path = table(header=header)
    assert refusal(path) == f"{path}: column {column!r} is missing; needed are image, question, answer"


def test_empty_file(table):
    path = table(header="")
    assert refusal(path) == f"{path}: column 'image' is missing; needed are image, question, answer"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("####", "image cannot be decoded"),
        ("!" + encoded(), "image cannot be decoded"),
        (encoded()[:-3], "image cannot be decoded"),
        ("größe", "image cannot be decoded"),
        ("", "image cannot be decoded"),
        (base64.b64encode(b"not an image").decode(), "image cannot be decoded"),
        (png_of_size(8001, 8000), "image of 8001 x 8000 pixels is over the limit of 64000000; shrink it"),
        (png_of_size(10_000, 10_000), "image of 10000 x 10000 pixels is over the limit of 64000000; shrink it"),
        (png_of_size(60_000, 60_000), "pixels"),
    ],
    ids=["alphabet", "stray", "cut", "unicode", "empty", "text", "large", "larger", "huge"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_image(table, image, message):
    path = table((encoded(), "q", "a"), (image, "q", "a"))
    assert refusal(path).startswith(f"{path}, line 3: ")
    assert message in refusal(path)


def test_largest_image_is_taken(table):
    assert len(list(read_tsv(table((png_of_size(8000, 8000), "q", "a"))))) == 1


def test_image_without_its_pixels_is_refused_when_looked_at(table):
    (sample,) = map(Task().sample, read_tsv(table((png_of_size(8, 8), "q", "a"))))
    with pytest.raises(DataError, match=r"sample 2: image cannot be decoded"):
        _ = sample.image


def test_short_row(table):
    path = table((encoded(), "q", "a"), (encoded(), "q"))
    assert refusal(path) == f"{path}, line 3: the row is cut short; it needs image, question, answer"


@pytest.mark.parametrize("before", ["\n", f'{encoded()}\t"a question\nof two lines"\ta\n'], ids=["empty", "quoted"])
def test_lines_are_those_of_the_file(table, before):
    path = table((encoded(), "q", "a"), before, ("####", "q", "a"))
    line = 1 + path.read_text().splitlines().index("####\tq\ta")
    assert refusal(path).startswith(f"{path}, line {line}: ")


@pytest.mark.parametrize("content", [b"image\tquestion\tanswer\n\xff\xfe", None])
def test_unreadable_file(tmp_path, content):
    path = tmp_path / "table.tsv"
    if content is not None:
        path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: cannot be read (")
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read (")


@pytest.mark.skipif(
    not REAL.is_file(), reason=f"no table at {REAL}; set VISPCO_REAL_DATA to the NLVR development split"
)
def test_real_table():
    samples = list(map(Task().sample, read_tsv(REAL)))
    assert len(samples) == 989
    assert len({sample.index for sample in samples}) == 989
    assert {sample.answer for sample in samples} == {"Yes", "No"}
    assert {(sample.slice, sample.split) for sample in samples} == {("nlvr", "dev")}
    assert all(sample.question.startswith("Is this true of the picture? ") for sample in samples)
    assert {sample.image.size for sample in samples[::50]} == {(400, 100)}
    assert load_samples(str(REAL), "dev", 3) == samples[:3]
