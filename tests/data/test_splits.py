"""No picture is in two splits, whatever the fractions, the table's order and what else it holds."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.data import Picture, Row, Sample, Splits, check_apart
from vispco.errors import ConfigError, DataError


def row(content, split=""):
    return Row("1", "t, line 1", Picture(content), "q", ("a",), split=split)


SHARES = st.lists(st.floats(1e-3, 1), min_size=1, max_size=5).map(
    lambda shares: {f"s{i}": share / max(1.0, sum(shares)) for i, share in enumerate(shares)}
)


@settings(deadline=None)
@given(SHARES, st.binary(max_size=20))
def test_the_stretches_are_cut_by_the_digest(shares, content):
    """Against the definition in whole numbers: 52 bits of the digest, and the sums of the fractions."""
    place = int(hashlib.sha256(content).hexdigest()[:13], 16)
    edge, wanted = 0.0, ""
    for name, share in shares.items():
        edge += share
        if place < edge * 2**52 - 1 and not wanted:
            wanted = name
    found = Splits("hash", shares).of(row(content))
    assert (
        found == wanted or abs(place / 2**52 - sum(list(shares.values())[: list(shares).index(found or wanted)])) < 1e-9
    )


@settings(deadline=None, max_examples=30)
@given(SHARES)
def test_as_many_as_the_fractions_say_and_one_split_per_picture(shares):
    splits = Splits("hash", shares)
    contents = [str(number).encode() for number in range(2000)]
    counts = Counter(splits.of(row(content, split="s0")) for content in contents)
    for name, share in shares.items():
        assert abs(counts[name] - 2000 * share) <= 5 * (2000 * share * (1 - share)) ** 0.5 + 1
    assert counts[""] == 2000 - sum(counts[name] for name in shares)


def test_splits_never_move():
    """They are part of what results mean."""
    splits = Splits("hash", {"validation": 0.2, "test": 0.5})
    # SHA-256 of these begins with ca978112 (0.791), 3e23e816 (0.243), 2e7d2c03 (0.182), 18ac3e73 (0.096).
    assert [splits.of(row(letter)) for letter in (b"a", b"b", b"c", b"d")] == ["", "test", "validation", "validation"]


def test_a_column_is_taken_at_its_word_and_the_rest_go_by_the_hash():
    shares = {"validation": 0.5, "test": 0.5}
    assert Splits("column", shares).of(row(b"a", "dev")) == "dev"
    assert Splits("hash", shares).of(row(b"a", "dev")) == Splits("column", shares).of(row(b"a")) == "test"


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.6}, {"a": 1.1}, {"a": 0.0, "b": 1.0}, {"a": -0.5}])
def test_fractions_that_cannot_be(shares):
    with pytest.raises(ConfigError, match=r"data\.fractions = .* give fractions above 0, together at most 1"):
        Splits("hash", shares)


def test_tenths_are_one():
    Splits("hash", {str(number): 0.1 for number in range(10)})


def test_a_split_without_a_share():
    with pytest.raises(
        ConfigError, match=r"split 'dev' has no share of the table; name one of validation, test, or set"
    ):
        Splits("hash").check("dev")
    Splits("column").check("dev")
    with pytest.raises(ConfigError, match=r"data\.split_by = 'row' is unknown; choose column or hash"):
        Splits("row")


def sample(content, question):
    return Sample(f"{content!r} {question}", Picture(content), question, "a", "all")


def test_samples_that_are_in_both_splits():
    searching = [sample(b"1", "q"), sample(b"2", "q"), sample(b"2", "r"), sample(b"3", "q")]
    assert check_apart(searching, [sample(b"4", "q"), sample(b"5", "r")]) == 0
    assert check_apart(searching, [sample(b"1", "r"), sample(b"1", "s"), sample(b"2", "s"), sample(b"4", "q")]) == 2
    with pytest.raises(DataError, match=r"sample b'2' r of the report split is searched with, too .*split_by=hash"):
        check_apart(searching, [sample(b"4", "q"), sample(b"2", "r")])
