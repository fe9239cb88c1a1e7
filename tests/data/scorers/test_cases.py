"""Every scorer agrees with hand-made cases of its official definition, and holds what all scorers promise."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vispco.data import Picture, Sample, make_scorer
from vispco.data.scorers import REGISTRY

CASES = {path.stem: json.loads(path.read_text()) for path in Path(__file__).with_name("cases").glob("*.json")}
OPTIONS = {"A": "a black cat", "B": "10", "C": "vitamin C", "D": "the year 2010"}

scorers = pytest.mark.parametrize("name", REGISTRY)


def png(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return Picture(file.getvalue())


PICTURE = png(20, 10)


def sample_of(case, index="1"):
    """The sample of a case; answers may be written ``10 x yes``."""
    answers = case["answers"]
    if isinstance(answers, str):
        times, answer = answers.split(" x ")
        answers = [answer] * int(times)
    return Sample(
        index, PICTURE, "q", answers[0], case.get("slice", "all"), answers=tuple(answers),
        options=tuple(case.get("options", OPTIONS).items()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name}-{number}") for name in CASES for number, case in enumerate(CASES[name])],
)
def test_cases(name, case):
    score = make_scorer(name, case.get("params")).score(case["said"], sample_of(case))
    assert score == pytest.approx(case["worth"], abs=1e-12), case


def test_every_scorer_has_cases():
    assert CASES.keys() == REGISTRY.keys()
    for name, cases in CASES.items():
        distinct = {json.dumps(case, sort_keys=True) for case in cases}
        assert len(distinct) >= 20, f"{name} has {len(distinct)} different cases"
        assert {case["said"] for case in cases} >= {""}, f"{name} has no empty answer"
        right = sum(case["worth"] == 1 for case in cases)
        assert 5 <= right <= len(cases) - 5, f"{name}: {right} of {len(cases)} cases are right"


@scorers
@pytest.mark.parametrize("said", ["", " ", "\n\t "])
def test_an_empty_answer_is_wrong_whatever_the_references(name, said):
    for case in CASES[name]:
        assert make_scorer(name, case.get("params")).score(said, sample_of(case)) == 0


@scorers
def test_totals_of_nothing(name):
    assert make_scorer(name).totals([], []) == {}


@scorers
def test_totals_of_the_cases(name):
    cases = [case for case in CASES[name] if "params" not in case]
    totals = make_scorer(name).totals([case["said"] for case in cases], list(map(sample_of, cases)))
    assert all(isinstance(value, float) for value in totals.values())


@scorers
@settings(max_examples=30, deadline=None)
@given(said=st.text(max_size=40) | st.text("ABCT.():[]0159,% yesno'", max_size=30), data=st.data())
def test_any_text_has_a_worth(name, said, data):
    case = data.draw(st.sampled_from(CASES[name]))
    scorer = make_scorer(name, case.get("params"))
    assert 0 <= scorer.score(said, sample_of(case)) <= 1
    scorer.totals([said], [sample_of(case)])
