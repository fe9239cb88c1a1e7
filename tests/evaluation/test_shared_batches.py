"""Batches that two processes share out: answers, qualities and what they cost are those of one, bit by bit."""

import numpy as np
import pytest
from processes import together

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.errors import VispcoError
from vispco.evaluation import Evaluator, TeacherCache
from vispco.evaluation.downsampling import downsample

SCHEDULES = [(1.0,) * 8, (1.0, 1.0, *[0.3] * 6), (1.0, 1.0, 0.3, 0.3, *[0.05] * 4)]


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(scope="module")
def samples():
    return load_samples("shapes", "validation", 13)


def counted(model, work):
    """What ``work`` gives, and how often the last layer ran."""
    runs = []
    hook = model.model.language_model.layers[-1].mlp.register_forward_hook(lambda *_: runs.append(1))
    result = work()
    hook.remove()
    return result, len(runs)


def bytes_of(quality):
    return np.stack([quality.kl, quality.score]).tobytes()


def test_two_processes_equal_one(micro, samples):
    """Four batches of 4, 4, 4 and 1; of the first nine samples three."""

    def work(rank=0):
        evaluator, answered = counted(micro[0], lambda: Evaluator(*micro, samples, batch_size=4))
        taught = evaluator.ledger.forwards
        steps = []
        whole, ran = counted(micro[0], lambda: evaluator.evaluate(SCHEDULES, advance=steps.append))
        some, _ = counted(micro[0], lambda: evaluator.evaluate(SCHEDULES, limit=9))
        smaller, downsampled = counted(micro[0], lambda: downsample(evaluator, 0.5))
        exact = [batch.teacher.numpy().tobytes() for batch in evaluator.batches]
        exact += [bytes_of(quality) for quality in (*whole, *some, smaller.quality)]
        return exact, (taught, evaluator.ledger.forwards, steps, smaller.costs, smaller.share), (
            answered, ran, downsampled,
        )  # fmt: skip

    exact, spent, runs = work()
    assert runs == (4, 4 * 3, 4)
    assert spent[0] == 13
    assert spent[2] == [4, 4, 4, 1]
    for theirs, paid, ran in together(work):
        assert theirs == exact
        assert paid == spent
        assert ran == (2, 2 * 3, 2)


def test_a_cache_is_asked_by_one_process_for_each_batch(micro, samples, tmp_path):
    """It may hold a part of the batches, and be another one on another machine."""
    Evaluator(*micro, samples[:4], batch_size=4, cache=TeacherCache(tmp_path / "0"))
    plain = [batch.teacher.numpy().tobytes() for batch in Evaluator(*micro, samples, batch_size=4).batches]

    def work(rank):
        cache = TeacherCache(tmp_path / str(rank))
        evaluator, ran = counted(micro[0], lambda: Evaluator(*micro, samples, batch_size=4, cache=cache))
        return [batch.teacher.numpy().tobytes() for batch in evaluator.batches], ran

    assert together(work) == [(plain, 1), (plain, 2)]
    assert [len(list((tmp_path / str(rank)).iterdir())) for rank in (0, 1)] == [2, 2]


def test_processes_that_ask_for_different_schedules_are_stopped(micro, samples):
    evaluator = Evaluator(*micro, samples, batch_size=4)

    def work(rank):
        with pytest.raises(VispcoError, match="different schedules to evaluate"):
            evaluator.evaluate(SCHEDULES[rank : rank + 1])

    together(work)
