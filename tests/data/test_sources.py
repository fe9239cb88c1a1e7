"""Samples of a split, from a table of the user's or from shapes world stored as one."""

import json

import pytest
from tables import encoded, picture, write_tsv

from vispco.data import Source, Splits, Task, generated, load_samples
from vispco.embedded import shapes
from vispco.errors import ConfigError, DataError

IMAGE = encoded()
HEADER = ("index", "image", "question", "answer", "split")


@pytest.fixture
def table(tmp_path):
    rows = [("1", "train"), ("2", "test"), ("3", ""), ("4", "test"), ("5", "train")]
    return str(write_tsv(tmp_path / "table.tsv", *((n, IMAGE, "q", "a", split) for n, split in rows), header=HEADER))


@pytest.fixture
def broken(tmp_path):
    """Thirty rows with a picture each; the second, and those from the twentieth on, have none."""
    rows = [(str(n), "####" if n == 1 or n >= 19 else encoded(color=(n, 0, 0)), "q", "a", "dev") for n in range(30)]
    return str(write_tsv(tmp_path / "broken.tsv", *rows, header=HEADER))


def indexes(source, *arguments, **options):
    return [sample.index for sample in source.draw(*arguments, **options).samples]


@pytest.mark.parametrize(("split", "count", "found"), [("test", 9, "24"), ("test", 1, "2"), ("train", 9, "15")])
def test_first_of_a_split(table, split, count, found):
    """Row 3 has no split, and its picture is not of one that can be asked for."""
    splits = Splits(fractions={"validation": 1.0})
    assert indexes(Source(table, splits=splits), split, count) == list(found)


def test_a_row_without_a_split_is_in_one(table):
    """It used to be in all of them, so that a result was reported on what it was chosen by."""
    source = Source(table, splits=Splits(fractions={"validation": 1.0}))
    assert {split: indexes(source, split, 9) for split in ("train", "validation", "test")} == {
        "train": ["1", "5"], "validation": ["3"], "test": ["2", "4"]
    }  # fmt: skip


def test_splits_by_hash_hold_all_rows_and_share_no_picture(tmp_path):
    rows = [(str(n), encoded(color=(n // 3, 0, 0)), f"q{n}", "a", "dev") for n in range(150)]
    table = str(write_tsv(tmp_path / "t.tsv", *rows, header=HEADER))
    source = Source(table, splits=Splits("hash"))
    parts = [source.draw(split, 999, "random").samples for split in ("validation", "test")]
    assert sorted(int(sample.index) for part in parts for sample in part) == list(range(150))
    digests = [{sample.picture.digest() for sample in part} for part in parts]
    assert not digests[0] & digests[1]
    assert all(len(part) > 30 for part in parts)


@pytest.mark.parametrize("count", [0, -3])
@pytest.mark.parametrize("name", ["table", "shapes"])
def test_count_below_one(table, tmp_path, name, count):
    with pytest.raises(DataError, match=rf"^{count} samples of split 'test' were asked for; ask for at least 1$"):
        load_samples(table if name == "table" else name, "test", count, cache=tmp_path / "cache")


def test_a_split_that_is_not_there(table, tmp_path):
    source = Source(table, splits=Splits(fractions={"rest": 0.9, "more": 0.1}))
    with pytest.raises(DataError) as caught:
        source.draw("dev", 5)
    has = "the splits of its rows are train (2 rows), test (2 rows), "
    assert str(caught.value).startswith(f"{table}: no samples of split 'dev'; {has}")
    assert str(caught.value).endswith("; name one of them, or make rest, more with data.split_by=hash")
    with pytest.raises(
        DataError, match=r"no samples of split 'b'; .*; change data\.fractions, or give a longer table$"
    ):
        Source(table, splits=Splits("hash", {"a": 1 - 1e-9, "b": 1e-9})).draw("b", 5)


def test_a_table_without_rows(tmp_path):
    (tmp_path / "t.json").write_text('[{"id": 1}, {"id": 2}]')
    with pytest.raises(DataError, match=r"it has no rows with a picture \(2 without, 0 broken\)$"):
        load_samples(str(tmp_path / "t.json"), "test", 5)


def test_broken_rows_are_counted_and_the_first_is_named(broken):
    for allowed in (0, 11):
        with pytest.raises(DataError) as caught:
            Source(broken, max_broken=allowed).draw("dev", 99, "random")
        line = str(caught.value)
        assert line.startswith(f"{broken}, line 3: image cannot be decoded")
        assert line.endswith(" (12 rows are broken); or leave them out with data.max_broken=12")
    drawn = Source(broken, max_broken=12).draw("dev", 99, "random")
    assert drawn.record() == {"samples": 18, "distinct": 18, "broken": 12, "pictureless": 0}
    assert [each.place for each in drawn.tally.named] == [f"{broken}, line {n}" for n in (3, *range(21, 30))]


def test_only_what_is_read_is_counted(broken):
    assert indexes(Source(broken), "dev", 1) == ["0"]
    drawn = Source(broken, max_broken=1).draw("dev", 18)
    assert (len(drawn.samples), drawn.tally.broken) == (18, 1)
    with pytest.raises(DataError, match=r"line 3: .*; or leave them out with data\.max_broken=1$"):
        load_samples(broken, "dev", 2)


def test_rows_without_a_picture_are_counted(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    talk = [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "this"}]
    entries = [{"conversations": talk}, {"image": "a.png", "conversations": talk, "split": "s"}, {"id": "no talk"}]
    (tmp_path / "t.json").write_text(json.dumps(entries))
    assert Source(str(tmp_path / "t.json")).draw("s", 5).record() == {
        "samples": 1, "distinct": 1, "broken": 0, "pictureless": 2
    }  # fmt: skip


def test_indexes_are_unique(tmp_path):
    rows = [("7", encoded((4, 4)), "q", "a", "s")] + [(n, encoded((64, 64)), "q", n, "s") for n in "88899999"]
    source = Source(str(write_tsv(tmp_path / "t.tsv", *rows, header=HEADER)))
    assert indexes(source, "s", 9) == ["7", "8", "8#2", "8#3", "9", "9#2", "9#3", "9#4", "9#5"]
    drawn = source.draw("s", 8, "area")
    names = [sample.index for sample in drawn.samples]
    assert sorted(name for name in names if name.startswith("7")) == ["7", "7#2", "7#3", "7#4"]
    assert len(set(names)) == 8
    assert drawn.record()["distinct"] == 5


def test_balanced_by_what_a_model_makes_of_pictures(tmp_path):
    rows = [(str(n), encoded((10 + n, 10)), "q", "a", "s") for n in range(20)]
    source = Source(str(write_tsv(tmp_path / "t.tsv", *rows, header=HEADER)))
    drawn = source.draw("s", 10, "tokens", lambda picture: 1 if picture.size()[0] > 11 else 99)
    assert sum(sample.picture.size()[0] > 11 for sample in drawn.samples) == 5
    with pytest.raises(ConfigError, match=r"'tokens' needs a model's processor"):
        source.draw("s", 10, "tokens")
    with pytest.raises(ConfigError, match=r"data\.sampling = 'last' is unknown; choose one of first, random, area"):
        source.draw("s", 10, "last")


def test_prompts_are_those_of_the_task(table):
    assert Source(table, task=Task("{question} Say a word.")).draw("test", 1).samples[0].question == "q Say a word."


def test_what_can_be_refused_without_reading(table):
    for source, words in (
        (Source("t.csv"), "no reader is known"),
        (Source("/nowhere/t.tsv"), r"^/nowhere/t\.tsv: cannot be read"),
        (Source(table, reader="csv"), "data.reader = 'csv' is unknown"),
        (Source(table, splits=Splits("hash")), "split 'train' has no share"),
        (Source("shapes", splits=Splits("hash")), "shapes world has splits of its own"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            source.check("validation", "train")
    Source("shapes").check("validation", "test")
    with pytest.raises(DataError, match=r"^shapes: cannot be read"):
        Source("shapes", reader="jsonl").draw("validation", 1)  # a file that has this name


# --- shapes world ----------------------------------------------------------------------------------------------------


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


def test_generated_samples_keep_their_order(tmp_path):
    """They are independent, and results of earlier versions stand on it."""
    source = Source("shapes", cache=tmp_path)
    assert source.draw("test", 9, "random").samples == load_samples("shapes", "test", 9, cache=tmp_path)


def test_shapes_are_stored_once(tmp_path, monkeypatch):
    cache = tmp_path / "deep" / "cache"
    written = []
    write = shapes.write_tsv
    monkeypatch.setattr(shapes, "write_tsv", lambda *arguments: (written.append(arguments[1:]), write(*arguments)))
    first = load_samples("shapes", "test", 8, seed=3, cache=cache)
    assert written == [("test", 8, 3)]
    assert {path.suffix for path in cache.iterdir()} == {".tsv", ".sha256"}, "a temporary file is left"
    assert load_samples("shapes", "test", 8, seed=3, cache=cache) == first
    assert len(written) == 1, "generated again"
    assert [sample.question for sample in first] == [row["question"] for row in shapes.generate("test", 8, seed=3)]
    table = next(cache.glob("*.tsv"))
    whole = table.read_bytes()
    for damage in (b"", whole[: whole.rindex(b"\n", 0, -1) + 1]):
        table.write_bytes(damage)
        assert load_samples("shapes", "test", 8, seed=3, cache=cache) == first
        assert table.read_bytes() == whole
    written.clear()
    for change in ({"split": "train"}, {"count": 9}, {"seed": 4}):
        other = load_samples("shapes", **{"split": "test", "count": 8, "seed": 3, "cache": cache, **change})
        assert (other[:8] == first) == ("count" in change)
    assert len(written) == 3
    assert len(list(cache.glob("*.tsv"))) == 4


def test_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_samples("shapes", "validation", 1)
    assert len(list((tmp_path / "vispco").glob("*.tsv"))) == 1


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    refused = r"file/cache: cannot store generated data \(Not a directory\); set XDG_CACHE_HOME elsewhere$"
    with pytest.raises(DataError, match=refused):
        load_samples("shapes", "test", 1, cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(path, *_):
        path.write_text("index\timage")
        raise error

    monkeypatch.setattr(shapes, "write_tsv", fail)
    with pytest.raises((DataError, KeyboardInterrupt)):
        generated.stored_shapes("test", 1, 0, tmp_path)
    assert not any(tmp_path.iterdir())
