"""Samples of a split, from a table of the user's or from shapes world stored as one."""

import base64
import io

import pytest
from PIL import Image

from vispco.data import load_samples
from vispco.embedded import shapes
from vispco.errors import DataError


@pytest.fixture
def table(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4, 3)).save(file, format="PNG")
    image = base64.b64encode(file.getvalue()).decode()
    rows = [("1", "train"), ("2", "test"), ("3", ""), ("4", "test"), ("5", "train")]
    lines = ["index\timage\tquestion\tanswer\tsplit", *(f"{index}\t{image}\tq\ta\t{split}" for index, split in rows)]
    path = tmp_path / "table.tsv"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("split", "count", "found"),
    [("test", 9, "234"), ("test", 2, "23"), ("train", 9, "135"), ("train", 1, "1"), ("elsewhere", 9, "3")],
)
def test_first_of_a_split(table, split, count, found):
    assert [sample.index for sample in load_samples(table, split, count)] == list(found)


@pytest.mark.parametrize("count", [0, -3])
@pytest.mark.parametrize("name", ["table", "shapes"])
def test_count_below_one(table, tmp_path, name, count):
    with pytest.raises(DataError, match=rf"^{count} samples of split 'test' were asked for; ask for at least 1$"):
        load_samples(table if name == "table" else name, "test", count, cache=tmp_path / "cache")


def test_split_without_samples(table, tmp_path):
    path = tmp_path / "one.tsv"
    path.write_text("\n".join((tmp_path / "table.tsv").read_text().splitlines()[:2]))
    with pytest.raises(DataError, match=r"one\.tsv: no samples of split 'test'; check the `split` column$"):
        load_samples(str(path), "test", 5)


def test_unknown_split_of_shapes(tmp_path):
    with pytest.raises(
        DataError, match=r"split 'dev' is unknown in shapes world; choose one of train, validation, test"
    ):
        load_samples("shapes", "dev", 5, cache=tmp_path)
    assert not any(tmp_path.iterdir())


def test_seed_that_cannot_be(tmp_path):
    with pytest.raises(DataError, match=r"seed"):
        load_samples("shapes", "test", 5, seed=-1, cache=tmp_path)
    assert not any(tmp_path.iterdir())


def test_missing_table(tmp_path):
    with pytest.raises(DataError, match=r"absent\.tsv: cannot be read"):
        load_samples(str(tmp_path / "absent.tsv"), "test", 1)


def test_shapes_are_stored_once(tmp_path, monkeypatch):
    cache = tmp_path / "deep" / "cache"
    written = []
    write = shapes.write_tsv
    monkeypatch.setattr(shapes, "write_tsv", lambda *arguments: (written.append(arguments[1:]), write(*arguments)))
    first = load_samples("shapes", "test", 8, seed=3, cache=cache)
    assert written == [("test", 8, 3)]
    assert [path.suffix for path in cache.iterdir()] == [".tsv"], "a temporary file is left"
    assert load_samples("shapes", "test", 8, seed=3, cache=cache) == first
    assert len(written) == 1, "generated again"
    assert [sample.question for sample in first] == [row["question"] for row in shapes.generate("test", 8, seed=3)]
    for change in ({"split": "train"}, {"count": 9}, {"seed": 4}):
        other = load_samples("shapes", **{"split": "test", "count": 8, "seed": 3, "cache": cache, **change})
        assert (other[:8] == first) == ("count" in change)
    assert len(written) == len(list(cache.iterdir())) == 4


def test_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_samples("shapes", "validation", 1)
    assert len(list((tmp_path / "vispco").iterdir())) == 1


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"file/cache: cannot store generated data .*; set XDG_CACHE_HOME elsewhere$"):
        load_samples("shapes", "test", 1, cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(path, *_):
        path.write_text("index\timage")
        raise error

    monkeypatch.setattr(shapes, "write_tsv", fail)
    with pytest.raises((DataError, KeyboardInterrupt)):
        load_samples("shapes", "test", 1, cache=tmp_path)
    assert not any(tmp_path.iterdir())
