import pytest

from vispco.data import Picture, Sample, make_scorer


@pytest.mark.parametrize(
    ("said", "answer", "worth"),
    [("Red.", "red", 1), (" red ", "red", 1), ("", "red", 0), ("", "", 0), ("red circle", "red", 0), ("10", "1", 0)],
)
def test_exact_match(said, answer, worth):
    sample = Sample("1", Picture(b""), "q", answer, "all")
    assert make_scorer("exact_match").score(said, sample) == worth
