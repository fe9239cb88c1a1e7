"""Tables are read as they are, and what is wrong with a row is named by file and line."""

import base64

import pytest
from tables import encoded, picture, png_of_size, write_tsv

from vispco.data import Broken, Picture, Row, read_tsv
from vispco.data.readers import base, tsv
from vispco.errors import DataError

RED, BLUE = encoded(), encoded(color=(0, 0, 255))


@pytest.fixture
def table(tmp_path):
    return lambda *rows, **options: write_tsv(tmp_path / "table.tsv", *rows, **options)


def refusal(path):
    with pytest.raises(DataError) as caught:
        list(read_tsv(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reasons(path):
    """Broken rows by line; everything else has to be a row."""
    found = [each for each in read_tsv(path) if not isinstance(each, Row)]
    assert all(isinstance(each, Broken) and "\n" not in each.reason for each in found)
    return {int(each.place.removeprefix(f"{path}, line ")): each.reason for each in found}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_all_columns(table, end, mark):
    path = table(
        ("train", "what is größer ?", "red", RED, "a-7", "colour", "look", "fine", "a cat", "", "none"),
        ("test", '"quoted ""so"" and\ttabbed"', "", encoded(kind="JPEG"), "", "", "nan", "coarse", "NaN", "nan", "5"),
        header=(
            f"{mark}split",
            "question",
            "answer",
            "image",
            "index",
            "category",
            "hint",
            "l2-category",
            "A",
            "B",
            "Z",
        ),
        end=end,
    )
    first, second = read_tsv(path)
    assert first == Row(
        index="a-7", place=f"{path}, line 2", picture=Picture(picture()), question="what is größer ?",
        answers=("red",), options={"A": "a cat", "Z": "none"}, hint="look", slice="colour", split="train",
    )  # fmt: skip
    assert second == Row(
        index="3", place=f"{path}, line 3", picture=Picture(picture(kind="JPEG")), question='quoted "so" and\ttabbed',
        answers=("",), options={"Z": "5"}, slice="coarse", split="test",
    )  # fmt: skip


def test_required_columns_alone(table):
    path = table((RED, "q", "a"))
    assert list(read_tsv(path)) == [Row("2", f"{path}, line 2", Picture(picture()), "q", ("a",))]


def test_other_columns_are_not_looked_at(table):
    [row] = read_tsv(table((RED, "q", "a", "x", "['y']"), header=("image", "question", "answer", "options", "answers")))
    assert (row.options, row.answers) == ({}, ("a",))


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("['yes', 'no', 'yes']", ("yes", "no", "yes")),
        ('["it\'s", "10"]', ("it's", "10")),
        ("['it\\'s, so']", ("it's, so",)),
        ("['ten', 10, 2.5]", ("ten", "10", "2.5")),
        ("[]", ("[]",)),
        ("[10, 20, 30, 40]", ("[10, 20, 30, 40]",)),  # a box
        ("[red]", ("[red]",)),
        ("['a'] or ['b']", ("['a'] or ['b']",)),
        ("['a', ['b']]", ("['a', ['b']]",)),
        ("[__import__('os').getcwd()]", ("[__import__('os').getcwd()]",)),
        ("[" * 5000 + "]" * 5000, ("[" * 5000 + "]" * 5000,)),
        ("10", ("10",)),
    ],
)
def test_an_answer_may_be_a_printed_list_of_texts(table, cell, answers):
    quoted = '"' + cell.replace('"', '""') + '"'
    [row] = read_tsv(table((RED, "q", quoted)))
    assert row.answers == answers


def test_pictures_by_name(table, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a, b.png").write_bytes(picture())
    for header in (("image_path", "question", "answer"), ("image", "image_path", "question", "answer")):
        for cell in ("deep/a, b.png", "['deep/a, b.png']", str(tmp_path / "deep/a, b.png")):
            row = (cell, "q", "a") if len(header) == 3 else ("", cell, "q", "a")
            [found] = read_tsv(table(row, header=header))
            assert found.picture.encoded == picture()
    [found] = read_tsv(table((BLUE, "deep/a, b.png", "q", "a"), header=header))
    assert found.picture.encoded == base64.b64decode(BLUE)  # what the row itself holds is the row's


def test_pictures_of_another_folder(table, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture())
    path = table(("a.png", "q", "a"), header=("image_path", "question", "answer"))
    [row] = read_tsv(path, tmp_path / "images")
    assert row.picture.size() == (4, 3)
    assert "is not in" in reasons(path)[2]
    with pytest.raises(DataError, match=r"absent: no folder of image files"):
        list(read_tsv(path, tmp_path / "absent"))


def test_names_that_lead_nowhere_or_elsewhere(table, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret.png").write_bytes(picture())
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    (home / "loop.png").symlink_to(home / "loop.png")
    (home / "text.png").write_text("no image")
    names = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "loop.png", "absent.png", "text.png", ".",
             "a\0b", "x" * 5000]  # fmt: skip
    path = write_tsv(home / "table.tsv", *((n, "q", "a") for n in names), header=("image_path", "question", "answer"))
    found = reasons(path)
    assert sorted(found) == list(range(2, 2 + len(names)))
    assert all("outside of" in found[line] for line in (2, 3, 4))
    assert all("is not in" in found[line] or "cannot be looked for" in found[line] for line in (5, 6, 8, 9, 10))
    assert "cannot be decoded" in found[7]


def test_a_picture_may_be_that_of_a_row_above(table):
    path = table(
        ("7", RED, '"a question\nof two lines"', "a"),
        ("8", BLUE, "q", "a"),
        ("9", "7", "q", "a"),
        ("007", "8", "q", "a"),
        ("11", "9", "q", "a"),  # which has none of its own
        ("12", "99", "q", "a"),
        ("13", "14", "q", "a"),  # below
        ("14", RED, "q", "a"),
        header=("index", "image", "question", "answer"),
    )
    rows = {row.index: row.picture.encoded for row in read_tsv(path) if isinstance(row, Row)}
    red, blue = picture(), base64.b64decode(BLUE)
    assert rows == {"7": red, "8": blue, "9": red, "007": blue, "14": red}
    assert {line: reason.split(",")[0] for line, reason in reasons(path).items()} == {
        line: f"image is that of the row with index {index}" for line, index in ((7, 9), (8, 99), (9, 14))
    }


@pytest.mark.parametrize("cell", [f"['{RED}', '{BLUE}']", f"[{RED},{BLUE}]"])
def test_one_picture_per_question(table, cell):
    assert reasons(table((cell, "q", "a"))) == {2: "the row has 2 pictures; one picture per question is supported"}
    [row] = read_tsv(table((f"['{RED}']", "q", "a")))
    assert row.picture.encoded == picture()


@pytest.mark.parametrize("column", ["image", "question", "answer"])
def test_missing_column(table, column):
    header = tuple(name for name in ("image", "question", "answer") if name != column)
    path = table(header=header)
    needed = "image or image_path, question and answer"
    assert refusal(path) == f"{path}: column {column!r} is missing; needed are {needed}"


def test_empty_file(table):
    assert "column 'image' is missing" in refusal(table(header=""))


def test_a_column_twice(table):
    header = ("image", "question", "answer", "question")
    assert "column 'question' is there 2 times; keep one" in refusal(table(header=header))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("####", "image cannot be decoded"),
        ("!" + RED, "image cannot be decoded"),
        (RED[:-3], "image cannot be decoded"),
        ("größe", "image cannot be decoded"),
        ("", "image cannot be decoded"),
        ("nan", "image cannot be decoded"),
        (base64.b64encode(b"not an image").decode(), "image cannot be decoded"),
        (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode(), "image cannot be decoded"),
        (
            base64.b64encode(png_of_size(8001, 8000)).decode(),
            "image of 8001 x 8000 pixels is over the limit of 64000000",
        ),
        (base64.b64encode(png_of_size(10_000, 10_000)).decode(), "image of 10000 x 10000 pixels is over the limit"),
        (base64.b64encode(png_of_size(60_000, 60_000)).decode(), "pixels"),
    ],
    ids=["alphabet", "stray", "cut", "unicode", "empty", "nan", "text", "program", "large", "larger", "huge"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_image_stops_nothing(table, image, message):
    path = table((RED, "q", "a"), (image, "q", "a"), (RED, "q", "a"))
    assert message in reasons(path)[3]
    assert len(list(read_tsv(path))) == 3


def test_largest_image_is_taken(table):
    [row] = read_tsv(table((base64.b64encode(png_of_size(8000, 8000)).decode(), "q", "a")))
    assert row.picture.size() == (8000, 8000)


def test_rows_that_are_too_short_or_too_long(table):
    path = table((RED, "q", "a"), (RED, "q"), (RED, "q", "a", "b"), (RED, "q", "a"))
    assert reasons(path) == {
        3: "the row is cut short; it needs image or image_path, question and answer",
        4: "the row has 4 cells under 3 columns; look for a tab in a text",
    }


def test_columns_that_need_not_be_there_may_be_cut_off(table):
    [row] = read_tsv(table((RED, "q", "a"), header=("image", "question", "answer", "category", "split")))
    assert (row.slice, row.split) == ("all", "")


@pytest.mark.parametrize("before", ["\n", f'{RED}\t"a question\nof two lines"\ta\n'], ids=["empty", "quoted"])
def test_lines_are_those_of_the_file(table, before):
    path = table((RED, "q", "a"), before, ("####", "q", "a"))
    assert list(reasons(path)) == [1 + path.read_text().splitlines().index("####\tq\ta")]


@pytest.mark.parametrize("after", [(), ((RED, '"quoted"', "a"),)], ids=["to the end", "to the next mark"])
@pytest.mark.parametrize("place", [1, 2])
def test_an_open_quotation_mark_costs_its_own_row(table, after, place):
    """Nothing of what it would swallow is lost, be it in the last column."""
    cells = [RED, "q", "a"]
    cells[place] = '"open'
    path = table((RED, "q", "a"), tuple(cells), (RED, "q", "a"), (RED, "q", "a"), *after)
    assert "quotation mark" in reasons(path)[3]
    assert len(list(read_tsv(path))) == 4 + len(after)


def test_bytes_that_are_no_text_cost_their_own_row(tmp_path):
    path = write_tsv(tmp_path / "table.tsv", (RED, "q", "a"), (RED, "BAD", "a"), (RED, "q", "a"))
    path.write_bytes(path.read_bytes().replace(b"BAD", b"\xff\xfe"))
    assert reasons(path) == {3: "question is not valid UTF-8; store it again"}


def test_a_text_that_is_too_long(table):
    assert reasons(table((RED, "q" * 100_001, "a"), (RED, "q" * 100_000, "a"))) == {
        2: "question has 100001 characters, more than 100000; shorten it"
    }


def test_a_line_without_an_end_is_not_held_whole(table, monkeypatch):
    monkeypatch.setattr(base, "MAX_LINE", 300)
    path = table((RED, "q", "a"), ("A" * 1000, "q", "a"), (RED, "q", "a"))
    found = list(read_tsv(path))
    assert [isinstance(each, Row) for each in found] == [True, False, False, False, False, True]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xfe", b"image\tquestion\tan\xffswer\n"])
def test_a_file_that_is_no_table(tmp_path, content):
    (tmp_path / "table.tsv").write_bytes(content)
    assert "is missing; needed are" in refusal(tmp_path / "table.tsv")


def test_a_file_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "absent.tsv", tmp_path):
        assert refusal(path).startswith(f"{path}: cannot be read (")


def test_lists_are_only_parsed_where_they_are_short():
    assert tsv.printed_list("['" + "a" * 100_000 + "']") is None
