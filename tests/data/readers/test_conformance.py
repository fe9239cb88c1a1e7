"""Every reader finds the same rows in the same table, and one broken row stops none of them."""

import json
import sys
from pathlib import Path

import pytest
from tables import encoded, picture, write_tsv

from vispco.data import Broken, Picture, Row, Source
from vispco.data.readers import ENDINGS, REGISTRY, Pictureless, find_reader
from vispco.errors import ConfigError, DataError

COLORS = [(250, 10, 20), (0, 0, 255), (0, 250, 0)]
ROWS = [{"index": f"r{i}", "question": f"what {i} ?", "answer": f"this {i}", "category": "one", "split": "test"}
        for i in range(3)]  # fmt: skip


def as_tsv(folder, rows):
    cells = [
        (encoded(color=color), *(row.get(name, "") for name in ROWS[0]))
        for row, color in zip(rows, COLORS, strict=True)
    ]
    return write_tsv(folder / "t.tsv", *cells, header=("image", *ROWS[0]))


def as_jsonl(folder, rows):
    lines = [json.dumps({**row, "image": encoded(color=color)}) for row, color in zip(rows, COLORS, strict=True)]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


def as_llava(folder, rows):
    entries = []
    for number, (row, color) in enumerate(zip(rows, COLORS, strict=True)):
        (folder / f"{number}.png").write_bytes(picture(color=color))
        talk = [{"from": "human", "value": f"<image>\n{row['question']}"}, {"from": "gpt", "value": row["answer"]}]
        entries.append({**row, "id": row["index"], "image": f"{number}.png", "conversations": talk})
    (folder / "t.json").write_text(json.dumps(entries))
    return folder / "t.json"


def as_datasets(folder, rows):
    datasets = pytest.importorskip("datasets")
    pictures = [{"bytes": picture(color=color), "path": None} for color in COLORS]
    columns = {name: [row.get(name) for row in rows] for name in ROWS[0]}
    table = datasets.Dataset.from_dict({**columns, "image": pictures}).cast_column("image", datasets.Image())
    table.save_to_disk(str(folder / "t"))
    return folder / "t"


WRITERS = {"tsv": as_tsv, "jsonl": as_jsonl, "llava": as_llava, "datasets": as_datasets}


def test_every_reader_is_covered():
    assert set(WRITERS) == set(REGISTRY)
    assert set(ENDINGS.values()) == set(REGISTRY)


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows(tmp_path, name):
    path = WRITERS[name](tmp_path, ROWS)
    assert find_reader(path) is REGISTRY[name]
    found = list(REGISTRY[name](path, None))
    assert [(r.index, r.question, r.answers, r.slice, r.split) for r in found] == [
        (row["index"], row["question"], (row["answer"],), "one", "test") for row in ROWS
    ]
    assert [row.picture.encoded for row in found] == [picture(color=color) for color in COLORS]
    assert all(row.place.startswith(f"{path}, ") for row in found)
    assert Source(str(path)).draw("test", 9).distinct == 3


@pytest.mark.parametrize("name", WRITERS)
def test_a_broken_row_stops_nothing(tmp_path, name):
    path = WRITERS[name](tmp_path, [ROWS[0], {**ROWS[1], "question": "?" * 100_001}, ROWS[2]])
    first, broken, last = REGISTRY[name](path, None)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(broken, Broken)
    assert broken.reason == "question has 100001 characters, more than 100000; shorten it"
    assert {"tsv": "line 3", "jsonl": "line 2", "llava": "line 1, entry 2", "datasets": "row 2"}[name] in broken.place


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "datasets"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(DataError, match=r"absent: cannot be read \("):
        list(REGISTRY[name](tmp_path / "absent", None))


def test_readers_are_found_by_name_or_by_ending(tmp_path):
    assert find_reader(Path("x.txt"), "jsonl") is REGISTRY["jsonl"]
    assert find_reader(Path("x.parquet")) is REGISTRY["datasets"]
    with pytest.raises(
        ConfigError, match=r"data\.reader = 'csv' is unknown; choose one of tsv, llava, jsonl, datasets"
    ):
        find_reader(Path("x.tsv"), "csv")
    with pytest.raises(DataError, match=r"x\.csv: no reader is known for files that end in '\.csv'"):
        find_reader(Path("x.csv"))


def test_without_the_library_only_its_reader_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "datasets" not in vars(sys.modules[REGISTRY["datasets"].__module__])
    with pytest.raises(DataError, match=r"pip install 'vispco\[datasets\]'"):
        list(REGISTRY["datasets"](tmp_path, None))
    assert all(isinstance(row, Row) for row in REGISTRY["tsv"](as_tsv(tmp_path, ROWS), None))


# --- fields, as they are in JSON -----------------------------------------------------------------------------------


def jsonl(folder, *entries, **base):
    base = {"image": encoded(), "question": "q", "answer": "a"} | base
    lines = [each if isinstance(each, str) else json.dumps({**base, **each}) for each in entries]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return list(REGISTRY["jsonl"](folder / "t.jsonl", None))


def test_fields(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    rows = jsonl(
        tmp_path,
        {"answers": ["yes", 2, 2.5], "answer": None, "index": 7},
        {"answer": 3, "options": {"A": "cat", "C": None, "D": 4}},
        {"options": ["cat", "", "dog"], "hint": "look", "image": "a.png"},
        {"A": "cat", "B": "dog", "l2-category": "coarse", "image": None, "image_path": ["a.png"], "unknown": {}},
        "",
        {"split": "dev", "category": "fine", "l2-category": "coarse", "image": {"bytes": None, "path": "a.png"}},
    )
    assert [row.answers for row in rows] == [("yes", "2", "2.5"), ("3",), ("a",), ("a",), ("a",)]
    assert [row.index for row in rows] == ["7", "2", "3", "4", "6"]
    assert [row.options for row in rows] == [
        {}, {"A": "cat", "D": "4"}, {"A": "cat", "C": "dog"}, {"A": "cat", "B": "dog"}, {}
    ]  # fmt: skip
    assert [row.slice for row in rows] == ["all", "all", "all", "coarse", "fine"]
    assert (rows[2].hint, rows[4].split) == ("look", "dev")
    assert {row.picture for row in rows[2:]} == {Picture((tmp_path / "a.png").resolve())}


BROKEN = {
    "not JSON": ('{"question": ', "is not valid JSON"),
    "a list": ("[1]", "it is list, not a JSON object"),
    "too deep": ("[" * 100_000, "is not valid JSON"),
    "long number": ('{"index": ' + "9" * 5000 + "}", "is not valid JSON"),
    "no picture": ({"image": None}, "there is no picture; give image or image_path"),
    "empty picture": ({"image": ""}, "there is no picture"),
    "a picture that is a number": ({"image": 5}, "image is int, not text"),
    "a picture that is nothing": ({"image": {}}, "image is NoneType, not text"),
    "two pictures": ({"image": ["a.png", "b.png"]}, "the row has 2 pictures; one picture per question"),
    "no pictures in a list": ({"image": []}, "the row has 0 pictures"),
    "missing file": ({"image": "a.png"}, "image file 'a.png' is not in"),
    "outside": ({"image_path": "../a.png", "image": None}, "is outside of"),
    "bad base64": ({"image": "####"}, "image cannot be decoded"),
    "no question": ({"question": None}, "there is no question"),
    "a question that is a number": ({"question": 5}, "question is int, not text"),
    "half a character": ({"question": "\ud800"}, "question is not valid UTF-8"),
    "no answer": ({"answer": None}, "there is no answer; give answer or answers"),
    "an answer that is true": ({"answer": True}, "answer is bool, not text"),
    "no answers": ({"answers": []}, "answers is [], not a list of at least one text"),
    "answers in a text": ({"answers": "a"}, "answers is 'a', not a list"),
    "answers in mappings": ({"answers": [{"answer": "a"}]}, "an answer is dict, not text"),
    "options in a text": ({"options": "cat"}, "options is 'cat'; give a list, or texts by letters A to Z"),
    "options by numbers": ({"options": {"1": "cat"}}, "texts by letters A to Z"),
    "options by small letters": ({"options": {"a": "cat"}}, "texts by letters A to Z"),
    "options by words": ({"options": {"AB": "cat"}}, "texts by letters A to Z"),
    "an option in a list": ({"options": [["cat"]]}, "A is list, not text"),
    "too many options": ({"options": ["x"] * 27}, "there are 27 options, more than 26 letters"),
    "a split that is a number": ({"split": 1}, "split is int, not text"),
    "an index that is a list": ({"index": [1]}, "index is list, not text"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_fields(tmp_path, case):
    entry, reason = BROKEN[case]
    first, broken, last = jsonl(tmp_path, {}, entry, {})
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(broken, Broken)
    assert reason in broken.reason
    assert broken.place == f"{tmp_path / 't.jsonl'}, line 2"
    assert not any(isinstance(each, Pictureless) for each in (first, last))
