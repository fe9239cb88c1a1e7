"""Official numbers of whole evaluations, by hand."""

import pytest

from vispco.data import Picture, Sample, make_scorer
from vispco.data.scorers.mme import GROUPS
from vispco.errors import ConfigError, DataError


def ask(answer, slice_="all", picture="1", options=(), answers=()):
    return Sample("7", Picture(picture.encode()), "q", answer, slice_, options=options, answers=answers)


def mme(questions):
    """Questions are (slice, picture, answer, said)."""
    samples = [ask(answer, slice_, picture) for slice_, picture, answer, _ in questions]
    return make_scorer("mme").totals([said for *_, said in questions], samples)


def test_mme_pairs():
    # Picture 1: both right; picture 2: one right. Accuracy 3/4, accuracy+ 1/2.
    totals = mme([
        ("count", "1", "Yes", "yes"), ("count", "2", "Yes", "Yes"),
        ("count", "1", "No", "No"), ("count", "2", "No", "yes"),
    ])  # fmt: skip
    assert totals == {"accuracy_plus": 0.5, "unparsed": 0}


def test_mme_perception_and_cognition():
    # Of each perception subtask 100 (3/4 + 1/2) = 125, of each cognition subtask 100 (1/2 + 0) = 50.
    perception = [
        (subtask, picture, answer, said)
        for subtask in GROUPS["perception"]
        for picture, answer, said in (("1", "Yes", "yes"), ("1", "No", "no"), ("2", "Yes", "yes"), ("2", "No", "yes"))
    ]
    cognition = [
        (subtask, "1", answer, "yes") for subtask in GROUPS["cognition"] for answer in ("Yes", "No")
    ]  # fmt: skip
    assert (len(GROUPS["perception"]), len(GROUPS["cognition"])) == (10, 4)
    totals = mme(perception + cognition)
    assert totals["perception"] == pytest.approx(1250)
    assert totals["cognition"] == pytest.approx(200)
    assert totals["accuracy_plus"] == pytest.approx(10 / 24)
    assert "cognition" not in mme(perception)
    assert "perception" not in mme(perception[4:] + cognition)


def test_mme_the_same_picture_in_two_subtasks_makes_two_pairs():
    assert mme([
        ("count", "1", "Yes", "yes"), ("color", "1", "Yes", "no"),
        ("count", "1", "No", "no"), ("color", "1", "No", "no"),
    ])["accuracy_plus"] == 0.5  # fmt: skip


def test_mme_a_question_alone_is_no_pair():
    totals = mme([("count", "1", "Yes", "yes"), ("count", "1", "No", "no"), ("count", "2", "No", "hm")])
    assert totals == {"accuracy_plus": 1, "unparsed": pytest.approx(1 / 3)}
    assert mme([("count", "1", "Yes", "yes")]) == {"unparsed": 0}


def pope(questions):
    return make_scorer("pope").totals([said for *_, said in questions], [ask(a, s) for s, a, _ in questions])


def test_pope():
    # Said yes: 2 right of 3. Is yes: 2 said of 4. F1 = 2 (2/3) (1/2) / (2/3 + 1/2) = 4/7.
    totals = pope([
        ("random", "yes", "Yes"), ("random", "yes", "a dog"), ("random", "yes", "no"), ("random", "yes", ""),
        ("random", "no", "Yes"), ("random", "no", "No."),
    ])  # fmt: skip
    assert totals == pytest.approx(
        {"precision": 2 / 3, "recall": 0.5, "f1": 4 / 7, "yes_ratio": 0.5, "unparsed": 2 / 6}
    )


def test_pope_of_its_settings():
    totals = pope([
        ("random,popular", "yes", "yes"), ("random", "no", "yes"), ("adversarial, popular", "yes", "no"),
    ])  # fmt: skip
    assert totals["f1"] == pytest.approx(0.5)
    assert totals["f1_random"] == pytest.approx(2 / 3)
    assert totals["f1_popular"] == pytest.approx(2 / 3)
    assert totals["f1_adversarial"] == 0


def test_options_share_that_cannot_be_parsed():
    sample = ask("A", options=(("A", "cat"), ("B", "dog")))
    assert make_scorer("options").totals(["A", "B", "C", "A or B", ""], [sample] * 5) == {"unparsed": 0.6}


def test_ocrbench_final_score():
    samples = [ask("centre"), ask("road"), ask("10"), ask("x^2", "Handwritten Mathematical Expression Recognition")]
    assert make_scorer("ocrbench").totals(["Centre", "street", "10", "x ^ 2"], samples) == {"final_score": 750}


def test_grounding_mean_overlap():
    samples = [ask("[0,0,10,10]")] * 4
    said = ["[0,0,10,10]", "[0,0,10,4]", "nowhere", "[0,0,1,1] [2,2,3,3]"]
    totals = make_scorer("grounding").totals(said, samples)
    assert totals == pytest.approx({"mean_iou": (1 + 0.4) / 4, "unparsed": 0.5})


@pytest.mark.parametrize(
    ("name", "sample", "message"),
    [
        ("options", ask("A"), "it has no options"),
        (
            "options",
            ask("cat", options=(("A", "cat"), ("B", "dog"))),
            "its reference answer is 'cat'; give one of A, B",
        ),
        ("mme", ask("maybe"), "its reference answer is 'maybe'; give Yes or No"),
        ("pope", ask("1"), "its reference answer is '1'; give Yes or No"),
        ("vqa", ask("red"), r"it has 1 reference answer\(s\)"),
        ("vqa", ask("red", answers=("red",) * 3), r"it has 3 reference answer\(s\)"),
        ("grounding", ask("left"), "its reference answer is 'left'"),
        ("grounding", ask("[5,5,5,9]"), r"its reference answer is '\[5,5,5,9\]'"),
    ],
)
def test_references_that_cannot_be_read_are_refused(name, sample, message):
    with pytest.raises(DataError, match=f"^sample 7: {message}.*or choose another data.scorer$"):
        make_scorer(name).check(sample)


def test_references_that_can_be_read_pass():
    make_scorer("options").check(ask("B", options=(("A", "cat"), ("B", "dog"))))
    make_scorer("mme").check(ask("Yes"))
    make_scorer("pope").check(ask(" no "))
    make_scorer("vqa").check(ask("red", answers=("red",) * 4))
    make_scorer("grounding").check(ask("[0, 0, 5, 9]"))
    for name in ("exact_match", "chartqa", "ocrbench"):
        make_scorer(name).check(ask("red"))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("bleu", {}, "scorer 'bleu' is unknown; choose answer_tokens or one of exact_match, "),
        ("mme", {"strict": True}, "data.scorer_params = .*strict"),
        ("vqa", {"normal_form": "raw"}, "data.scorer_params.normal_form = 'raw' is unknown; choose one of vqa, evalai"),
        ("grounding", {"scale": "percent"}, "data.scorer_params.scale = 'percent': give pixel, or a number"),
        ("grounding", {"reference_scale": 0}, "data.scorer_params.reference_scale = 0: give pixel, or a number"),
        ("grounding", {"scale": float("nan")}, "data.scorer_params.scale = nan: give pixel, or a number"),
        ("grounding", {"scale": True}, "data.scorer_params.scale = True: give pixel, or a number"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, params, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_scorer(name, params)
