"""Data sets of Hugging Face, from what its library stores; nothing here leaves the machine."""

import json

import pytest
from tables import picture

from vispco.data import Broken, Row
from vispco.data.readers.datasets import read_datasets
from vispco.errors import DataError

datasets = pytest.importorskip("datasets")


def build(count=2, **columns):
    columns = {"question": [f"q{i}" for i in range(count)], "answer": ["a"] * count, **columns}
    if "image" not in columns:
        columns["image"] = [{"bytes": picture(), "path": None}] * count
    table = datasets.Dataset.from_dict(columns)
    return table.cast_column("image", datasets.Image()) if isinstance(columns["image"][0], dict) else table


def test_parquet_and_arrow_files(tmp_path):
    build().to_parquet(str(tmp_path / "t.parquet"))
    build().save_to_disk(str(tmp_path / "saved"))
    [arrow] = (tmp_path / "saved").glob("*.arrow")
    for path in (tmp_path / "t.parquet", arrow):
        rows = list(read_datasets(path))
        assert [(row.question, row.split, row.place) for row in rows] == [
            (f"q{i}", "", f"{path}, row {i + 1}") for i in range(2)
        ]
        assert all(row.picture.encoded == picture() for row in rows)


@pytest.mark.parametrize("kind", ["saved", "files"])
def test_parts_are_splits_of_rows_that_name_none(tmp_path, kind):
    parts = {"train": build(1), "test": build(2, split=["", "dev"])}
    if kind == "saved":
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "t"))
    else:
        (tmp_path / "t").mkdir()
        for name, part in {**parts, "train": build(1, split=[""])}.items():
            part.to_parquet(str(tmp_path / "t" / f"{name}.parquet"))
    rows = list(read_datasets(tmp_path / "t"))
    assert sorted((row.place.split(", ")[-1], row.split) for row in rows) == [
        ("row 1 of test", "test"), ("row 1 of train", "train"), ("row 2 of test", "dev")
    ]  # fmt: skip


def test_class_labels_are_their_names(tmp_path):
    table = build(2, answer=[1, 0]).cast_column("answer", datasets.ClassLabel(names=["no", "yes"]))
    table.save_to_disk(str(tmp_path / "t"))
    assert [row.answers for row in read_datasets(tmp_path / "t")] == [("yes",), ("no",)]


def test_a_stored_format_changes_nothing(tmp_path):
    table = build(2, answers=[["a", "b"], ["c"]]).with_format("numpy")
    table.save_to_disk(str(tmp_path / "t"))
    assert [row.answers for row in read_datasets(tmp_path / "t")] == [("a", "b"), ("c",)]


def test_pictures_as_bytes_or_by_name(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture())
    build(1, image=[picture()]).to_parquet(str(tmp_path / "bytes.parquet"))
    build(2, image=["a.png", "../bytes.parquet"]).to_parquet(str(tmp_path / "names.parquet"))
    [row] = read_datasets(tmp_path / "bytes.parquet")
    assert row.picture.encoded == picture()
    row, broken = read_datasets(tmp_path / "names.parquet", tmp_path / "images")
    assert row.picture.encoded == picture()
    assert "is outside of" in broken.reason


def test_broken_rows(tmp_path):
    build(3, image=[picture(), b"", picture()], answer=["a", "a", None]).to_parquet(str(tmp_path / "t.parquet"))
    first, second, third = read_datasets(tmp_path / "t.parquet")
    assert isinstance(first, Row)
    assert isinstance(second, Broken)
    assert "image cannot be decoded" in second.reason
    assert third == Broken(f"{tmp_path / 't.parquet'}, row 3", "there is no answer; give answer or answers")


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "folder", "nobody/nothing"])
def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for path in ("t.parquet", "t.arrow"):
        (tmp_path / path).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError) as caught:
        list(read_datasets((tmp_path / name).relative_to(tmp_path)))
    assert str(caught.value).startswith(f"{name}: cannot be read by datasets (")
    assert "\n" not in str(caught.value)


# --- what strangers have stored --------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path):
    """A picture beside the folder of the data set."""
    (tmp_path / "secret.png").write_bytes(picture())
    (tmp_path / "data").mkdir()
    return {"bytes": None, "path": str(tmp_path / "secret.png")}


@pytest.fixture
def opened(monkeypatch):
    """Paths of pictures that the library itself decodes."""
    paths, decode = [], datasets.Image.decode_example
    monkeypatch.setattr(
        datasets.Image, "decode_example",
        lambda self, value, **options: (paths.append(value["path"]), decode(self, value, **options))[1],
    )  # fmt: skip
    return paths


def test_the_library_decodes_no_picture_of_its_own(tmp_path, secret, opened):
    table = build(1).add_column("more", [[secret]]).add_column("other", [secret])
    kinds = {**table.features, "more": datasets.List(datasets.Image()), "other": datasets.Image()}
    table.cast(datasets.Features(kinds)).save_to_disk(str(tmp_path / "data" / "t"))
    [row] = read_datasets(tmp_path / "data" / "t")
    assert row.picture.encoded == picture()
    assert opened == []
    assert datasets.load_from_disk(str(tmp_path / "data" / "t"))[0]["other"]  # the library does, if it is let
    assert opened


def test_lists_of_pictures_are_refused_unseen(tmp_path, secret, opened):
    table = build(1).remove_columns("image").add_column("image", [[secret]])
    table = table.cast(datasets.Features({**table.features, "image": datasets.List(datasets.Image())}))
    table.save_to_disk(str(tmp_path / "data" / "t"))
    with pytest.raises(DataError, match=r"column 'image' holds several pictures per row"):
        list(read_datasets(tmp_path / "data" / "t"))
    assert opened == []


@pytest.mark.parametrize("kind", ["relative", "absolute", "link"])
def test_saved_tables_stay_in_their_folder(tmp_path, kind):
    build(1).save_to_disk(str(tmp_path / "elsewhere"))
    build(1).save_to_disk(str(tmp_path / "t"))
    [file], [other] = (list((tmp_path / name).glob("*.arrow")) for name in ("t", "elsewhere"))
    state = json.loads((tmp_path / "t" / "state.json").read_text())
    names = {"relative": f"../elsewhere/{other.name}", "absolute": str(other), "link": file.name}
    state["_data_files"] = [{"filename": names[kind]}]
    (tmp_path / "t" / "state.json").write_text(json.dumps(state))
    assert len(datasets.load_from_disk(str(tmp_path / "t"))) == 1  # the library reads it
    if kind == "link":
        file.unlink()
        file.symlink_to(other)
    with pytest.raises(DataError, match=r"read by datasets \(it names .*, which is outside of the folder\)"):
        list(read_datasets(tmp_path / "t"))


def test_saved_parts_stay_in_their_folder(tmp_path):
    build(1).save_to_disk(str(tmp_path / "elsewhere"))
    datasets.DatasetDict({"train": build(1)}).save_to_disk(str(tmp_path / "t"))
    (tmp_path / "t" / "dataset_dict.json").write_text('{"splits": ["train", "../elsewhere"]}')
    with pytest.raises(DataError, match=r"which is outside of the folder"):
        list(read_datasets(tmp_path / "t"))


@pytest.mark.parametrize("text", ["{", "[]", '{"_data_files": 3}', "[" * 99_999])
def test_damaged_descriptions_are_one_line(tmp_path, text):
    build(1).save_to_disk(str(tmp_path / "t"))
    (tmp_path / "t" / "state.json").write_text(text)
    with pytest.raises(DataError, match=r"^.*t: cannot be read by datasets \(.*\); give a folder of save_to_disk"):
        list(read_datasets(tmp_path / "t"))
