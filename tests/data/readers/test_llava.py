"""LLaVA's list of conversations, read piece by piece."""

import io
import json
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tables import picture

from vispco.data import Broken, Row
from vispco.data.readers import Pictureless, array
from vispco.data.readers.array import read_array
from vispco.data.readers.llava import read_llava
from vispco.errors import DataError


def says(speaker, text):
    return {"from": speaker, "value": text}


TALK = [says("human", "<image>\nwhat ?"), says("gpt", "this"), says("human", "why ?"), says("gpt", "so")]


@pytest.fixture
def write(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())

    def write(*entries, indent=None):
        (tmp_path / "t.json").write_text(json.dumps(entries, indent=indent))
        return tmp_path / "t.json"

    return write


def test_the_first_question_and_answer_of_each_entry(write):
    path = write(
        {"id": 5, "image": "a.png", "conversations": TALK, "category": "c", "split": "s"},
        {"image": ["a.png"], "conversations": [says("system", "be kind"), *TALK[2:]]},
        {"id": "x", "image": "a.png", "conversations": [says("human", "what is it ?\n<image>"), says("gpt", "red")]},
        indent=1,
    )
    rows = list(read_llava(path))
    assert [(row.index, row.question, row.answers, row.slice, row.split) for row in rows] == [
        ("5", "what ?", ("this",), "c", "s"),
        ("2", "why ?", ("so",), "all", ""),
        ("x", "what is it ?", ("red",), "all", ""),
    ]
    lines = path.read_text().splitlines()
    starts = [number for number, line in enumerate(lines, start=1) if line == " {"]
    assert [row.place for row in rows] == [f"{path}, line {n}, entry {i}" for i, n in enumerate(starts, start=1)]


def test_entries_without_a_picture_are_no_broken_rows(write):
    first, second = read_llava(write({"id": "t", "conversations": TALK}, {"image": "a.png", "conversations": TALK}))
    assert first == Pictureless(f"{first.place}")
    assert isinstance(second, Row)


BROKEN = {
    "no object": (5, "it is int, not a JSON object"),
    "no text": ({"image": 5, "conversations": TALK}, "image is int, not text"),
    "missing file": ({"image": "b.png", "conversations": TALK}, "image file 'b.png' is not in"),
    "several": ({"image": ["a.png", "a.png"], "conversations": TALK}, "the row has 2 pictures"),
    "no talk": ({"image": "a.png"}, "conversations is no list of messages"),
    "text": ({"image": "a.png", "conversations": "hello"}, "conversations is no list of messages"),
    "no reply": ({"image": "a.png", "conversations": TALK[:1]}, "no message from human that one from gpt follows"),
    "no words": ({"image": "a.png", "conversations": [says("human", None), says("gpt", "a")]}, "no text in value"),
    "two marks": (
        {"image": "a.png", "conversations": [says("human", "<image> or <image> ?"), says("gpt", "a")]},
        "the question is about 2 pictures",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_entries(write, case):
    entry, reason = BROKEN[case]
    good = {"image": "a.png", "conversations": TALK}
    first, broken, last = read_llava(write(good, entry, good))
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(broken, Broken)
    assert reason in broken.reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"id": 1}', "'{' where [ is expected, line 1"),
        ("", "the end of the file where [ is expected"),
        ("[\n{},\n{]", "the entry in line 3 is not valid JSON"),
        ("[{}\n{}]", "'{' where , or ] is expected, line 2"),
        ("[{},\n{", "the entry in line 2 is not valid JSON"),
        ("[{}", "the end of the file where , or ] is expected"),
        ("[{}]\n[{}]", "something follows the list in line 2"),
        ("[" + "[" * 100_000, "the entry in line 1 is nested too deep"),
    ],
)
def test_files_that_cannot_be_read_on(tmp_path, content, words):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError) as caught:
        list(read_llava(tmp_path / "t.json"))
    assert words in str(caught.value)
    assert "data.reader=jsonl" in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@example([-0.0, 1.5e300, -7], 2, None, True)  # a number that is cut before its point, and after its sign
@given(st.lists(VALUES, max_size=6), st.integers(1, 9), st.sampled_from([None, 0, 3]), st.booleans())
def test_pieces_of_any_length_give_the_whole(values, piece, indent, ascii_only):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array, "PIECE", piece)
        text = json.dumps(values, indent=indent, ensure_ascii=ascii_only) + "\n"
        assert [value for _, value in read_array(io.StringIO(text))] == values


def test_memory_does_not_grow_with_the_list(tmp_path):
    with (tmp_path / "t.json").open("w") as file:
        file.write("[" + ",\n".join(json.dumps({"text": "x" * 5000}) for _ in range(4000)) + "]")
    with (tmp_path / "t.json").open() as file:
        tracemalloc.start()
        assert sum(1 for _ in read_array(file)) == 4000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 6 * array.PIECE < (tmp_path / "t.json").stat().st_size / 2


def test_an_entry_without_an_end_is_not_held_whole(monkeypatch):
    monkeypatch.setattr(array, "PIECE", 100)
    monkeypatch.setattr(array, "MAX_ENTRY", 1000)
    file = io.StringIO('[{"a": "' + "x" * 100_000)
    with pytest.raises(ValueError, match=r"the entry in line 1 is no JSON, or longer than 1000 characters"):
        list(read_array(file))
    assert file.tell() < 4000
