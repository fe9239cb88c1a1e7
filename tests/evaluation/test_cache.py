"""Unpruned answers on disk: the same bits as without, and nothing that is not whole, ours and of the same origin."""

import io
import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load, save

from vispco.data import Picture, load_samples
from vispco.embedded import locate
from vispco.engine import Replay, fingerprint, load_checkpoint
from vispco.evaluation import Evaluator, Ledger, TeacherCache, prepare
from vispco.evaluation.cache import LAYOUT, batch_origin, model_origin
from vispco.testing import MODELS

ORIGIN = {"layout": LAYOUT, "model": "some", "batch": "1"}
KEEP = (1.0, 1.0, 0.5, 0.3, 0.3, 0.3, 0.1, 0.1)


class Missing(Exception):
    pass


def encode(image):
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def fail(*_):
    raise Missing


def numbers(seed=0):
    return torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@pytest.fixture
def cache(tmp_path):
    return TeacherCache(tmp_path / "teacher")


@pytest.fixture
def kept(cache):
    cache.recall(ORIGIN, (3, 2), numbers)
    return cache


def files(cache):
    return sorted(cache.folder.iterdir())


def recalled(cache, origin=ORIGIN):
    """What is kept, or None."""
    try:
        return cache.recall(origin, (3, 2), fail)
    except Missing:
        return None


# --- the folder ------------------------------------------------------------------------------------------------------


def test_numbers_are_computed_once_and_come_back_bit_by_bit(cache):
    assert torch.equal(cache.recall(ORIGIN, (3, 2), numbers), numbers())
    assert torch.equal(recalled(TeacherCache(cache.folder)), numbers())
    assert files(cache) == [cache.path(ORIGIN)]


@pytest.mark.parametrize("name", ORIGIN)
def test_another_origin_has_other_numbers(kept, name):
    other = {**ORIGIN, name: "other"}
    assert recalled(kept, other) is None
    assert torch.equal(kept.recall(other, (3, 2), lambda: numbers(1)), numbers(1))
    assert torch.equal(recalled(kept), numbers())


def test_no_damage_goes_unseen(kept):
    """Every byte flipped in one and in all of its bits, and the file cut short anywhere: nothing, or the numbers."""
    path = kept.path(ORIGIN)
    whole = path.read_bytes()
    same = 0
    for place in range(len(whole)):
        for flip in (0x01, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            found = recalled(kept)
            assert found is None or torch.equal(found, numbers())
            same += found is not None
        path.write_bytes(whole[:place])
        assert recalled(kept) is None
    assert same < 0.02 * len(whole), "only padding of the header may change without effect"
    path.write_bytes(whole + b"\0")
    assert recalled(kept) is None


def test_what_cannot_be_used_is_written_anew(kept):
    path = kept.path(ORIGIN)
    path.write_bytes(path.read_bytes()[:-7])
    assert torch.equal(kept.recall(ORIGIN, (3, 2), numbers), numbers())
    assert torch.equal(recalled(kept), numbers())


def header_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_files_of_others_are_not_trusted(kept):
    path = kept.path(ORIGIN)
    header, value = header_of(path), load(path.read_bytes())["teacher"]
    assert set(header) == {"origin", "sha256"}
    old = {**ORIGIN, "layout": "0"}
    kept.recall(old, (3, 2), lambda: numbers(1))
    foreign = [
        kept.path(old).read_bytes(),
        b"",
        b"weights",
        save({"teacher": value}),
        save({"weight": value}, header),
        save({"teacher": value.view(torch.int32)}, header),
        save({"teacher": value.bfloat16()}, header),
        save({"teacher": value.transpose(0, 1).contiguous()}, header),
        save({"teacher": value.view(3, 10)}, header),
        save({"teacher": value}, {**header, "sha256": ""}),
    ]
    for content in foreign:
        path.write_bytes(content)
        assert recalled(kept) is None, content
    path.write_bytes(save({"teacher": value}, header))
    assert torch.equal(recalled(kept), numbers()), "the file that is right is refused, so that this showed nothing"
    path.unlink()
    path.mkdir()
    assert torch.equal(kept.recall(ORIGIN, (3, 2), numbers), numbers())


def test_a_file_has_its_name_only_when_it_is_whole_and_on_disk(cache, monkeypatch):
    steps, sync, rename = [], os.fsync, os.replace

    def synced(handle):
        steps.append("synced")
        assert not cache.path(ORIGIN).exists()
        sync(handle)

    def renamed(source, target):
        steps.append("renamed")
        assert torch.equal(load(Path(source).read_bytes())["teacher"], numbers())
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    cache.recall(ORIGIN, (3, 2), numbers)
    assert steps == ["synced", "renamed"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(cache, monkeypatch, error):
    def interrupt(handle):
        raise error

    monkeypatch.setattr(os, "fsync", interrupt)
    if isinstance(error, OSError):
        assert torch.equal(cache.recall(ORIGIN, (3, 2), numbers), numbers())
    else:
        with pytest.raises(KeyboardInterrupt):
            cache.recall(ORIGIN, (3, 2), numbers)
    assert files(cache) == []


def test_a_folder_that_cannot_be_written_costs_no_result(tmp_path):
    (tmp_path / "file").write_text("mine")
    blocked = TeacherCache(tmp_path / "file" / "teacher")
    assert torch.equal(blocked.recall(ORIGIN, (3, 2), numbers), numbers())
    assert (tmp_path / "file").read_text() == "mine"


def test_files_go_that_were_not_used_for_longest(cache):
    origins = [{**ORIGIN, "batch": str(number)} for number in range(4)]
    for age, origin in enumerate(origins[:3]):
        cache.recall(origin, (3, 2), numbers)
        os.utime(cache.path(origin), (age, age))
    size = cache.path(origins[0]).stat().st_size
    cache.limit = 3 * size
    left = cache.folder / "teacher-left-by-a-killed-process.tmp"
    left.write_bytes(bytes(size // 2))
    os.utime(left, (0, 0))
    (cache.folder / "teacher-that-goes-meanwhile.tmp").symlink_to("nowhere")  # there in the listing, and then not
    mine = cache.folder / "mine.txt"
    mine.write_bytes(bytes(10 * size))
    assert recalled(cache, origins[0]) is not None  # so that 1 is now the one not used for longest
    cache.recall(origins[3], (3, 2), numbers)
    assert [recalled(cache, origin) is not None for origin in origins] == [True, False, True, True]
    assert not left.exists()
    assert mine.exists()
    cache.limit = size - 1
    cache.recall({**ORIGIN, "batch": "large"}, (3, 2), numbers)
    assert [path for path in files(cache) if path.exists()] == [mine]


def work(folder, limit, start, failures):
    try:
        cache = TeacherCache(folder, limit)
        start.wait()
        for number in range(60):
            origin = {**ORIGIN, "batch": str(number // 2)}
            if not torch.equal(cache.recall(origin, (3, 2), lambda n=number: numbers(n // 2)), numbers(number // 2)):
                failures.put(f"wrong numbers of {origin}")
    except BaseException as error:
        failures.put(repr(error))


@pytest.mark.parametrize("room", [3, 1000])
def test_processes_may_read_write_and_remove_at_once(cache, room):
    cache.recall(ORIGIN, (3, 2), lambda: numbers(1))
    size = cache.path(ORIGIN).stat().st_size
    context = multiprocessing.get_context("fork")
    start, failures = context.Barrier(4), context.SimpleQueue()
    workers = [context.Process(target=work, args=(cache.folder, room * size, start, failures)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert failures.empty(), failures.get()
    assert all(path.suffix == ".safetensors" for path in files(cache)), "temporary files are left"
    if room == 1000:
        assert len(files(cache)) == 30
        for number in range(30):
            assert torch.equal(recalled(cache, {**ORIGIN, "batch": str(number)}), numbers(number))


# --- what an origin sees ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(scope="module")
def samples():
    return load_samples("shapes", "validation", 8, seed=3)


def test_an_origin_sees_every_change_of_a_batch(micro, samples):
    processor = micro[1]

    def origin(samples):
        batch = prepare(processor, samples)
        return batch_origin({**batch.inputs, "rows": batch.rows})

    base = [replace(sample) for sample in samples[:3]]
    assert origin(base) == origin(samples[:3])
    image = samples[0].image.copy()
    image.putpixel((40, 40), tuple(255 - value for value in image.getpixel((40, 40))))
    drawn = replace(base[0], picture=Picture(encode(image)))
    changes = {
        "pixel": [drawn, *base[1:]],
        "question": [replace(base[0], question=base[0].question + " ?"), *base[1:]],
        "answer": [replace(base[0], answer="red circle"), *base[1:]],
        "order": base[::-1],
        "fewer": base[:2],
    }
    stock = processor.chat_template
    found = {name: origin(changed) for name, changed in changes.items()}
    processor.chat_template = stock.replace("<answer>", "<eos><answer>")
    try:
        found["template"] = origin(base)
    finally:
        processor.chat_template = stock
    found["base"] = origin(base)
    assert len({value["batch"] for value in found.values()}) == len(found)
    rows = {"rows": torch.tensor([[1, 2]])}
    assert (
        len({batch_origin(one)["batch"] for one in (rows, {"rows": rows["rows"] + 1}, {"rows": rows["rows"].T})}) == 3
    )


def test_an_origin_sees_every_change_of_a_model(micro, tmp_path):
    stock = model_origin(micro[0])
    assert model_origin(load_checkpoint("micro-llava")[0]) == stock
    moved = shutil.copytree(locate("micro-llava"), tmp_path / "elsewhere")
    assert model_origin(load_checkpoint(str(moved))[0]) == stock, "the folder's name has a say"
    assert model_origin(load_checkpoint("micro-llava", attention="eager")[0])["attention"] != stock["attention"]
    assert model_origin(load_checkpoint("micro-llava", dtype="bfloat16")[0])["weights"] != stock["weights"]
    assert (stock["layout"], stock["model"]) == (LAYOUT, "LlavaForConditionalGeneration")
    assert (stock["torch"], stock["transformers"]) == (torch.__version__, transformers.__version__)
    torch.set_float32_matmul_precision("high")
    try:
        assert model_origin(micro[0])["precision"] != stock["precision"]
    finally:
        torch.set_float32_matmul_precision("highest")
    model, _ = load_checkpoint("micro-llava")
    before = fingerprint(model)
    weight = model.lm_head.weight
    weight[7, 1] = torch.nextafter(weight[7, 1], torch.tensor(9.0))
    assert fingerprint(model) == before, "a place that the fingerprint sees, so that this shows less"
    assert model_origin(model)["weights"] != stock["weights"]
    model.config.text_config.rms_norm_eps = 1e-5
    assert model_origin(model)["configuration"] != stock["configuration"]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert model_origin(micro[0])["device"] != stock["device"]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_family_has_an_origin(name):
    origin, again = (model_origin(MODELS[name].build()) for _ in range(2))
    assert origin == again
    assert json.loads(json.dumps(origin)) == origin
    backend = MODELS[name].build().config.get_text_config()._attn_implementation
    assert backend in origin["attention"].split(", ")


# --- the evaluator ---------------------------------------------------------------------------------------------------


def test_an_evaluator_is_the_same_with_and_without_a_cache(micro, samples, cache, monkeypatch):
    """Bit by bit; on a hit the unpruned decoder does not run, and is charged all the same."""
    options = {"batch_size": 5}
    plain = Evaluator(*micro, samples, **options)
    filling = Evaluator(*micro, samples, cache=cache, **options)
    assert len(files(cache)) == 2
    monkeypatch.setattr(Replay, "run", fail)
    ledger = Ledger()
    hit = Evaluator(*micro, samples, cache=cache, ledger=ledger, **options)
    assert ledger.forwards == 8
    for one in (filling, hit):
        assert all(torch.equal(a.teacher, b.teacher) for a, b in zip(one.batches, plain.batches, strict=True))
        [quality], [expected] = one.evaluate([KEEP]), plain.evaluate([KEEP])
        np.testing.assert_array_equal(quality.kl, expected.kl)
        np.testing.assert_array_equal(quality.score, expected.score)
    other = {"selector": "random", "selector_params": {"seed": 0}}
    assert len(Evaluator(*micro, samples, cache=cache, **options, **other).batches) == 2
    with pytest.raises(Missing):
        Evaluator(*micro, samples, cache=cache, batch_size=4)
