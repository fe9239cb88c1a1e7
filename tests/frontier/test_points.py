"""The points file survives kills, reports damage exactly, and points that do not merge are refused."""

import errno
import json
import math
import os
import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError

from vispco.errors import DataError, RunError
from vispco.frontier import Point, append_points, comparable, read_points

FIELDS = ("backend", "dtype", "model", "prompt", "data", "split")


@pytest.fixture(autouse=True)
def _no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"costs": {"flops": math.nan}}, "costs.flops"),
        ({"quality": {"score": math.inf}}, "quality.score"),
        ({"slices": {"colour": math.nan}}, "slices.colour"),
        ({"keep": (1.0, math.nan)}, "keep.1"),
        ({"keep": (1.5, 0.5)}, "keep"),
        ({"keep": (0.5, 1.0)}, "keep"),
        ({"keep": ()}, "keep"),
        ({"samples": 0}, "samples"),
        ({"budget": 0.0}, "budget"),
        ({"budget": 1.01}, "budget"),
        ({"name": ""}, "name"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refuses_field(make_point, change, field):
    with pytest.raises(ValidationError) as caught:
        make_point(**change)
    assert [".".join(map(str, error["loc"])) for error in caught.value.errors()] == [field]


def test_one_sample_and_the_whole_budget_are_legal(make_point):
    point = make_point(samples=1, budget=1.0)
    assert (point.samples, point.budget) == (1, 1.0)


def test_point_is_frozen(make_point):
    with pytest.raises(ValidationError, match="frozen"):
        make_point().seed = 3


def test_round_trip_through_folder_and_file(make_point, tmp_path):
    first = [make_point(1 / 3, 0.1 + 0.2), make_point(name="größe\u2028\n zwei", budget=0.5)]
    second = [make_point(0.1, 1e-17, seed=7)]
    append_points(tmp_path, first)
    append_points(tmp_path / "points.jsonl", second)
    append_points(tmp_path, [])
    assert read_points(tmp_path) == first + second
    assert read_points(str(tmp_path / "points.jsonl")) == first + second


def test_one_synced_write_per_append(make_point, tmp_path, monkeypatch):
    sizes = []
    file = tmp_path / "points.jsonl"
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    append_points(tmp_path, [make_point(), make_point()])
    assert sizes == [file.stat().st_size]
    assert file.read_bytes().count(b"\n") == 2


def test_whole_history_of_kills(make_point, tmp_path):
    """A file cut at any byte loses the torn point alone, and goes on as if it had never been there."""
    whole, lost, after = make_point(0.1), make_point(0.2, name="größe"), make_point(0.3)
    file = tmp_path / "points.jsonl"
    append_points(file, [whole])
    start = file.stat().st_size
    append_points(file, [lost])
    content = file.read_bytes()
    for size in range(start + 1, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.warns(UserWarning, match=r"points\.jsonl: line 2 was torn by a crash and is left out"):
            assert read_points(file) == [whole]
        with pytest.warns(UserWarning, match="cut off"):
            append_points(file, [after])
        assert read_points(file) == [whole, after]


def test_missing_newline_loses_nothing(make_point, tmp_path):
    points = [make_point(0.1), make_point(0.2)]
    file = tmp_path / "points.jsonl"
    append_points(file, points)
    file.write_bytes(file.read_bytes()[:-1])
    assert read_points(file) == points
    append_points(file, points)
    assert read_points(file) == points + points


def test_reading_changes_nothing(make_point, tmp_path):
    file = tmp_path / "points.jsonl"
    append_points(file, [make_point()])
    torn = file.read_bytes() + b'{"name'
    file.write_bytes(torn)
    with pytest.warns(UserWarning, match="torn"):
        read_points(file)
    assert file.read_bytes() == torn


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ('{"name": "tor', "the whole line"),
        ("", "the whole line"),
        ("\x00\x00", "the whole line"),
        ("[1]", "the whole line"),
        ('{"samples": 0}', "samples"),
        ('{"samples": 1.5}', "samples"),
        ('{"costs": {"flops": NaN}}', "costs.flops"),
        ('{"costs": {"flops": null}}', "costs.flops"),
        ('{"keep": [0.5, 1.0]}', "keep"),
        ('{"extra": 1}', "extra"),
        ('{"seed": null}', "seed"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_broken_line_names_file_line_and_field(make_point, tmp_path, broken, field, last):
    good = make_point().model_dump_json()
    if broken.startswith("{") and broken.endswith("}"):
        broken = json.dumps(json.loads(good) | json.loads(broken))
    file = tmp_path / "points.jsonl"
    file.write_text("\n".join([good, broken] + [good] * (not last)) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_points(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: line 2, field {field}: ")
    assert message.endswith("; mend or remove the line")
    assert "\n" not in message
    assert "Value error" not in message


def test_missing_field_and_wrong_bytes_are_named(make_point, tmp_path):
    file = tmp_path / "points.jsonl"
    kept = {key: value for key, value in make_point().model_dump().items() if key != "prompt"}
    file.write_text(json.dumps(kept) + "\n")
    with pytest.raises(DataError, match="line 1, field prompt: Field required"):
        read_points(tmp_path)
    file.write_bytes(make_point(name="größe").model_dump_json().encode("latin-1") + b"\n")
    with pytest.raises(DataError, match="line 1, field the whole line"):
        read_points(tmp_path)


def test_complete_but_invalid_tail_is_no_tear(make_point, tmp_path):
    """Valid JSON without a newline was not torn: it is reported, and an append keeps it."""
    file = tmp_path / "points.jsonl"
    file.write_text('{"name": "from a newer release"}')
    with pytest.raises(DataError, match="line 1, field"):
        read_points(file)
    append_points(file, [make_point()])
    assert file.read_text().startswith('{"name": "from a newer release"}\n')


@pytest.mark.parametrize("call", [read_points, lambda path: append_points(path, [])])
def test_unusable_path(tmp_path, call):
    with pytest.raises(RunError, match=r"gone.points\.jsonl: cannot be .*; give "):
        call(tmp_path / "gone" / "points.jsonl")


def test_folder_without_points(tmp_path):
    with pytest.raises(RunError, match=r"points\.jsonl: cannot be read"):
        read_points(Path(tmp_path))


@pytest.mark.parametrize("field", FIELDS)
def test_comparable_names_field_and_both_values(make_point, field):
    mine = make_point(name="first", **{field: "here"})
    other = make_point(name="third", **{field: "there"})
    with pytest.raises(DataError, match=f"{field} is 'here' in 'first' and 'there' in 'third'; choose .* one {field}"):
        comparable([mine, mine, other])
    with pytest.raises(DataError, match=f"{field} is 'here' in 'first' and 'there' in 'third'"):
        comparable([mine, other])


def test_comparable_accepts_what_may_differ(make_point):
    free = {"method": "step", "selector": "random", "keep": (1.0,), "seed": 9, "samples": 3, "budget": 0.5}
    free["selector_params"], free["basis"] = {"seed": 9}, {"latency": "another table"}
    comparable([make_point(), make_point(0.1, 0.2, name="other", slices={}, **free)])
    comparable([])
    assert set(free) | set(FIELDS) | {"name", "costs", "quality", "slices"} == set(Point.model_fields)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_could_not_be_read_again_is_not_stored(make_point, tmp_path, value):
    """A changed copy is not validated, and JSON has no NaN."""
    bad = make_point().model_copy(update={"name": "bad", "quality": {"score": 0.5, "kl": value}})
    append_points(tmp_path, [make_point()])
    before = (tmp_path / "points.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"point 'bad', field quality\.kl: .*finite.*; it cannot be stored"):
        append_points(tmp_path, [make_point(0.4), bad])
    assert (tmp_path / "points.jsonl").read_bytes() == before


def test_a_write_that_fails_half_way_leaves_nothing(make_point, tmp_path, monkeypatch):
    append_points(tmp_path, [make_point()])
    before = (tmp_path / "points.jsonl").read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"points\.jsonl: cannot be written \(No space left on device\); give an"):
            append_points(tmp_path, [make_point(0.4), make_point(0.3)])
    assert (tmp_path / "points.jsonl").read_bytes() == before
    append_points(tmp_path, [make_point(0.2)])
    assert len(read_points(tmp_path)) == 2
