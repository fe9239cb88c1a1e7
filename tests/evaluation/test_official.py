"""Official scores are those of what stock `generate` says."""

from dataclasses import replace

import numpy as np
import pytest

from vispco import PruningConfig, prune
from vispco.data import load_samples, make_scorer
from vispco.data.scorers import PerSample
from vispco.engine import load_checkpoint, model_card
from vispco.errors import DataError
from vispco.evaluation import (
    Candidate,
    Evaluator,
    Official,
    Provenance,
    check_answer_tokens,
    downsample,
    generate_answers,
    measure,
    smaller_images,
)

CUT = (1.0, 1.0, 0.3, 0.3, 0.3, 0.1, 0.1, 0.1)
WHOLE = (1.0,) * 8


class Length(PerSample):
    """Worth of an answer that no teacher forcing could tell: its letters, as a fraction of ten."""

    def score(self, prediction, sample):
        return min(1.0, len(prediction) / 10)


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(scope="module")
def samples():
    return load_samples("shapes", "test", 10)


@pytest.fixture(scope="module")
def evaluator(micro, samples):
    return Evaluator(*micro, samples, batch_size=4, official=Official(Length(), 4, 6))


def said(micro, samples, keep=None, selector="fastv", processor=None):
    model = micro[0]
    sizes = {"batch_size": 4, "max_new_tokens": 6}
    if keep is None:
        return generate_answers(model, processor or micro[1], samples, **sizes)
    with prune(model, PruningConfig(selector=selector, keep=keep, model=model_card(model))):
        return generate_answers(model, micro[1], samples, **sizes)


def lengths(answers):
    return [Length().score(answer, None) for answer in answers]


def test_schedules_are_scored_by_what_is_generated_under_them(micro, samples, evaluator):
    whole, cut, few = evaluator.evaluate([WHOLE, CUT, (1.0,) + (0.01,) * 7])
    assert whole.score.tolist() == lengths(said(micro, samples))
    assert cut.score.tolist() == lengths(said(micro, samples, CUT))
    assert few.score.tolist() == lengths(said(micro, samples, (1.0,) + (0.01,) * 7)) != whole.score.tolist()
    plain = Evaluator(*micro, samples, batch_size=4).evaluate([CUT])[0]
    np.testing.assert_array_equal(cut.kl, plain.kl)
    assert set(plain.score) <= {0.0, 1.0}


def test_every_sample_may_have_its_own_schedule(micro, samples, evaluator):
    table = [WHOLE, CUT] * 5
    [quality] = evaluator.evaluate([table])
    expected = [lengths(said(micro, samples, keep))[index] for index, keep in enumerate(table)]
    assert quality.score.tolist() == expected
    [part] = evaluator.evaluate([table], limit=3)
    assert part.score.tolist() == expected[:3]


def test_another_selector_and_smaller_pictures(micro, samples, evaluator):
    [quality] = evaluator.share("random", {"seed": 0}).evaluate([CUT])
    assert quality.score.tolist() == lengths(said(micro, samples, CUT, "random"))
    with smaller_images(*micro, 0.3) as smaller:
        expected = lengths(said(micro, samples, processor=smaller))
    assert downsample(evaluator, 0.3).quality.score.tolist() == expected
    assert expected != lengths(said(micro, samples))


def test_points_call_the_score_by_its_name(micro, samples, evaluator):
    provenance = Provenance.of(*micro, 0, samples, "length")
    [(point, quality)] = measure(evaluator, [Candidate("a", "grid", CUT)], provenance, split="test")
    assert point.quality["score"] == quality.score.mean()
    assert point.data == provenance.data
    forced = Evaluator(*micro, samples, batch_size=4)
    [(point, _)] = measure(forced, [Candidate("a", "grid", CUT)], provenance, split="test", metric="answer_tokens")
    assert set(point.quality) == {"kl", "answer_tokens"}
    assert point.slices == {}


def test_points_of_other_samples_or_another_scorer_are_told_apart(micro, samples):
    origins = [
        Provenance.of(*micro, 0, *args)
        for args in [
            (samples, "a"),
            (samples, "b"),
            (samples[1:], "a"),
            ([replace(samples[0], answers=("x", "y")), *samples[1:]], "a"),
            ([replace(samples[0], picture=samples[1].picture), *samples[1:]], "a"),
        ]
    ]
    assert len({origin.data for origin in origins}) == 5
    assert origins[0] == Provenance.of(*micro, 0, list(samples), "a")


def test_answers_that_the_tokenizer_does_not_know_are_not_scored_by_their_tokens(micro, samples):
    check_answer_tokens(micro[1], samples)
    with pytest.raises(DataError, match=r"sample 7: answer 'Yes' is not in the .*; give data.scorer=exact_match"):
        check_answer_tokens(micro[1], [samples[0], replace(samples[1], index="7", answer="Yes")])


def test_exact_match_of_generated_answers_agrees_with_forced_tokens(micro, samples, evaluator):
    """On shapes world, where every answer is one word."""
    official = Evaluator(*micro, samples, batch_size=4, official=Official(make_scorer("exact_match"), 4, 6))
    forced = Evaluator(*micro, samples, batch_size=4)
    schedule = (1.0, 0.1) + (0.03,) * 6
    ours, theirs = (each.evaluate([schedule])[0].score for each in (official, forced))
    np.testing.assert_array_equal(ours, theirs)
    assert 0 < ours.sum() < 10
