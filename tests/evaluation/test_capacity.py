"""Batches that do not fit into memory, and numbers that are none, at every place where a model runs."""

import pytest
from short import gone_wrong, short_of_memory

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.errors import CapacityError, NumericError
from vispco.evaluation import Evaluator, TeacherCache, downsample, generate_answers

KEEP = (1.0, 1.0, *[0.3] * 6)
FITS = (
    r"^out of memory \(tried to allocate 2\.50 GiB\) with {} samples at once, which data\.batch_size sets; "
    r"data\.batch_size={} fits$"
)


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples("shapes", "validation", 10, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def evaluator(micro, samples):
    return Evaluator(*micro, samples, batch_size=8)


@pytest.fixture
def layers(micro):
    return micro[0].get_decoder().layers


@pytest.mark.parametrize("part", ["tower", "decoder"])
def test_capturing_and_unpruned_answers(micro, samples, layers, part):
    module = micro[0].model.vision_tower if part == "tower" else layers[0]
    with short_of_memory(module, 3):
        with pytest.raises(CapacityError, match=FITS.format(8, 2)):
            Evaluator(*micro, samples, batch_size=8)
        assert len(Evaluator(*micro, samples, batch_size=2).batches) == 5, "what was said to fit does not"


def test_schedules(samples, layers, evaluator):
    whole = evaluator.evaluate([KEEP])[0]
    with short_of_memory(layers[5], 4):
        with pytest.raises(CapacityError, match=FITS.format(8, 4)):
            evaluator.evaluate([(1.0,) * 8, KEEP])
        with pytest.raises(CapacityError, match=FITS.format(5, 2)):
            evaluator.evaluate([KEEP], limit=5)
        assert evaluator.evaluate([KEEP], limit=4)[0].kl.tolist() == pytest.approx(whole.kl[:4].tolist(), rel=1e-3)
    assert evaluator.evaluate([KEEP])[0].kl.tolist() == whole.kl.tolist(), "something is left"


def test_smaller_pictures(layers, evaluator):
    with short_of_memory(layers[0], 1), pytest.raises(CapacityError, match=FITS.format(8, 1)):
        downsample(evaluator, 0.5)


def test_generating(micro, samples, layers):
    answers = generate_answers(*micro, samples, batch_size=3, max_new_tokens=2)
    with short_of_memory(layers[0], 3):
        with pytest.raises(CapacityError, match=FITS.format(7, 3)):
            generate_answers(*micro, samples, batch_size=7, max_new_tokens=2)
        assert generate_answers(*micro, samples, batch_size=3, max_new_tokens=2) == answers


def test_an_unpruned_model_without_numbers_is_named_with_its_sample(micro, samples, layers, tmp_path):
    cache = TeacherCache(tmp_path)
    with gone_wrong(layers[6], 1, full=0):
        text = rf"^sample {samples[1].index}: NaN or infinity in the unpruned model's logits; check the checkpoint's"
        with pytest.raises(NumericError, match=text):
            Evaluator(*micro, samples, batch_size=8, cache=cache)
    assert not list(tmp_path.iterdir()), "they are in the cache"


def test_a_schedule_without_numbers_is_named_with_its_sample(samples, layers, evaluator):
    full = evaluator.batches[0].captured.hidden.shape[1]
    with gone_wrong(layers[4], 1, full):
        evaluator.evaluate([(1.0,) * 8], limit=8)
        keep = r"\[1\.0, 1\.0, 0\.3, 0\.3, 0\.3, 0\.3, 0\.3, 0\.3\]"
        for limit in (8, 2):
            text = rf"^sample {samples[1].index}: .* its KL under selector fastv with keep {keep}; check"
            with pytest.raises(NumericError, match=text):
                evaluator.evaluate([(1.0,) * 8, KEEP], limit=limit)


def test_a_smaller_picture_without_numbers_is_named(samples, layers, evaluator):
    full = evaluator.batches[0].captured.hidden.shape[1]
    with gone_wrong(layers[4], 0, full), pytest.raises(NumericError, match=rf"^sample {samples[0].index}: .*smaller"):
        downsample(evaluator, 0.5)


def test_a_coarse_dtype_is_the_first_thing_to_change(samples):
    micro = load_checkpoint("micro-llava", "bfloat16")
    layers = micro[0].get_decoder().layers
    with gone_wrong(layers[6], 0, full=0), pytest.raises(NumericError, match=r"bfloat16.*, try model\.dtype=float32$"):
        Evaluator(*micro, samples[:2])
