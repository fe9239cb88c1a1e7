"""Samples under the settings: what every command takes, what it says about what is left out, and what it refuses."""

import json

import pytest
from refusing import one_line
from tables import encoded, picture, write_tsv

from vispco.cli import main
from vispco.cli.loading import load_both, load_report, source_of
from vispco.cli.overrides import parse_overrides
from vispco.data import samples
from vispco.engine import load_checkpoint
from vispco.errors import ConfigError, DataError

HEADER = ("index", "image", "question", "answer", "split", "category")
SMALL = ["data.search_samples=6", "data.report_samples=6", "data.batch_size=6", "budget.values=[0.8]", "progress=false",
         "search=step", "search.ladder=[0.5]", "tracker=none"]  # fmt: skip


def settings(table, *overrides):
    return parse_overrides(["data=table", f"data.path={table}", *overrides]).data


def write(path, rows):
    """Rows of (number of the picture, question, split); a picture below 0 is broken."""
    cells = [
        (str(n), "####" if which < 0 else encoded((40, 40), (which, 0, 0)), question, "red", split, "color")
        for n, (which, question, split) in enumerate(rows)
    ]
    return write_tsv(path, *cells, header=HEADER)


@pytest.fixture
def dev(tmp_path):
    """Forty pictures in one split, and a broken row."""
    return write(tmp_path / "dev.tsv", [(-1, "q", "dev"), *((n, "what color ?", "dev") for n in range(40))])


def test_settings_reach_the_source(tmp_path):
    source = source_of(
        settings(
            tmp_path, "data.reader=llava", f"data.images={tmp_path}", "data.prompt='{question} {hint}'", "data.seed=3",
            "data.split_by=hash", "data.fractions.validation=0.1", "data.max_broken=7",
        )
    )  # fmt: skip
    assert (source.path, source.reader, source.images) == (str(tmp_path), "llava", str(tmp_path))
    assert (source.task.prompt, source.seed, source.max_broken) == ("{question} {hint}", 3, 7)
    assert (source.splits.by, dict(source.splits.fractions)) == ("hash", {"validation": 0.1, "test": 0.5})


def test_the_search_is_drawn_as_told_and_the_report_without_bias(tmp_path):
    rows = [(str(n), encoded((8, 8) if n else (64, 64)), f"{split} {n}", "a", split, "c")
            for split in ("validation", "test") for n in range(9)]  # fmt: skip
    data = settings(write_tsv(tmp_path / "t.tsv", *rows, header=HEADER), "data.sampling=area")
    loaded = load_both(data, None, None)
    assert loaded.record() == {
        "search": {"samples": 9, "distinct": 6, "broken": 0, "pictureless": 0},
        "report": {"samples": 9, "distinct": 9, "broken": 0, "pictureless": 0},
        "shared_pictures": 2,
    }
    assert load_report(data) == loaded.reporting.samples
    assert load_report(data, 4) == loaded.reporting.samples[:4]
    assert [sample.index for sample in loaded.reporting.samples] != [str(n) for n in range(9)]


def test_what_is_left_out_is_said_once(dev, capsys):
    loaded = load_both(settings(dev, "data.split_by=hash", "data.max_broken=1"), None, None)
    assert len(loaded.searching.samples) + len(loaded.reporting.samples) == 40
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"{dev}, line 2: image cannot be decoded")
    assert said[1] == "1 broken rows are left out"
    load_report(settings(dev, "data.report_split=dev", "data.max_broken=1"))
    assert capsys.readouterr().err.splitlines() == said


def test_pictures_of_both_splits(tmp_path, capsys):
    rows = [(n, f"{split} {n} ?", split) for split in ("validation", "test") for n in (1, 2)]
    shared = load_both(settings(write(tmp_path / "t.tsv", rows)), None, None).shared
    assert shared == 2
    assert capsys.readouterr().err.startswith("2 pictures are in both splits, with other questions; data.split_by=hash")
    rows = [(n, "what ?", split) for split in ("validation", "test") for n in (1, 2)]
    table = write(tmp_path / "t.tsv", rows)
    with pytest.raises(DataError, match=r"is searched with, too .*data\.split_by=hash keeps splits apart"):
        load_both(settings(table), None, None)


def test_tokens_are_counted_by_the_model(tmp_path, monkeypatch):
    model, processor = load_checkpoint("micro-qwen2.5-vl")
    processor.image_processor.size = {"shortest_edge": 400, "longest_edge": 40_000}  # no picture is made 80 x 80
    rows = [(str(n), encoded((40, 40) if n else (120, 120)), f"{split} {n}", "a", split, "c")
            for split in ("validation", "test") for n in range(6)]  # fmt: skip
    data = settings(write_tsv(tmp_path / "t.tsv", *rows, header=HEADER), "data.sampling=tokens")
    sizes = [sample.picture.size()[0] for sample in load_both(data, model, processor).searching.samples]
    assert (sizes.count(40), sizes.count(120)) == (3, 3)
    rows[0] = ("0", encoded((3, 999)), *rows[0][2:])
    write_tsv(tmp_path / "t.tsv", *rows, header=HEADER)
    with pytest.raises(DataError, match=r"t\.tsv, line 2: image of 3 x 999 pixels is longer than 200 times"):
        load_both(data, model, processor)
    monkeypatch.setattr(samples, "MAX_ASPECT", 999)
    with pytest.raises(DataError, match=r"t\.tsv, line 2: absolute aspect ratio must be smaller than 200"):
        load_both(data, model, processor)


BAD = {
    "no table": ([], ["data.path is not given; name a table with data.path=..."]),
    "no such table": (["data.path=/nowhere/t.tsv"], ["/nowhere/t.tsv: cannot be read"]),
    "no reader": (["data.path=t.csv"], ["t.csv: no reader is known", ".tsv, .json, .jsonl"]),
    "unknown reader": (["data.path=t.csv", "data.reader=csv"], ["data.reader = 'csv'", "tsv, llava, jsonl, datasets"]),
    "fractions": (["data.path=TABLE", "data.fractions.test=0.9"], ["data.fractions", "sum to 1.4"]),
    "share": (["data.path=TABLE", "data.split_by=hash", "data.report_split=dev"], ["split 'dev' has no share"]),
    "prompt": (["data.path=TABLE", "data.prompt=Go"], ["data.prompt", "{question}"]),
    "splits": (["data.path=TABLE", "data.max_broken=1"],
               ["no samples of split 'validation'", "dev (40 rows)", "data.split_by=hash"]),
    "broken": (["data.path=TABLE", "data.split_by=hash"], ["line 2: image cannot be decoded", "data.max_broken=1"]),
    "shapes": (["data=shapes", "data.split_by=hash"], ["shapes world has splits of its own"]),
    "images": (["data.path=TABLE", "data.images=/nowhere"], ["/nowhere: no folder of image files", "data.images"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_line_and_exit_code_two(case, dev, tmp_path, capsys):
    overrides, words = BAD[case]
    options = [option.replace("TABLE", str(dev)) for option in overrides]
    assert main(["search", "data=table", *SMALL, f"hydra.run.dir={tmp_path / 'run'}", *options]) == 2
    line = one_line(capsys)
    assert all(word in line for word in words), line
    assert not (tmp_path / "run" / "points.jsonl").exists()


def test_settings_are_refused_before_a_checkpoint_is_opened(dev):
    with pytest.raises(ConfigError, match=r"sum to 1\.4"):
        source_of(settings(dev, "data.fractions.test=0.9"))


def test_a_run_records_what_was_left_out(dev, tmp_path, capsys):
    folder = tmp_path / "run"
    table = ["data=table", f"data.path={dev}", "data.split_by=hash", "data.max_broken=1"]
    assert main(["search", *table, *SMALL, f"hydra.run.dir={folder}"]) == 0
    assert json.loads((folder / "frontier.json").read_text())["data"] == {
        "search": {"samples": 6, "distinct": 6, "broken": 1, "pictureless": 0},
        "report": {"samples": 6, "distinct": 6, "broken": 1, "pictureless": 0},
        "shared_pictures": 0,
    }
    page = (folder / "report.html").read_text()
    assert "6 samples, 1 rows broken, validation split" in page
    assert str(dev) in page
    assert "1 broken rows are left out" in capsys.readouterr().err
    assert main(["eval", str(folder / "config-0.8.json"), *table, *SMALL]) == 0
    assert "color" in capsys.readouterr().out


def test_pictures_by_name(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    talk = [{"from": "human", "value": "<image>\nwhat color is the circle ?"}, {"from": "gpt", "value": "red"}]
    entries = [{"conversations": talk}]
    for n in range(40):
        (tmp_path / "images" / f"{n}.png").write_bytes(picture((30, 30), (n, 0, 0)))
        entries.append({"id": n, "image": f"{n}.png", "conversations": talk})
    (tmp_path / "t.json").write_text(json.dumps(entries))
    loaded = load_both(settings(tmp_path / "t.json", f"data.images={tmp_path / 'images'}"), None, None)
    assert len(loaded.searching.samples) + len(loaded.reporting.samples) == 40
    assert capsys.readouterr().err.splitlines() == ["1 rows without a picture are passed over"]
