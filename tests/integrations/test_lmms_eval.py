"""lmms-eval scores a configuration: with its interface as a stand-in, and for real where it is installed."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lmms_task import write_task
from PIL import Image
from stubs import LMMS_EVAL, forget, install

from vispco import PruningConfig, prune
from vispco.data import load_samples
from vispco.engine import load_checkpoint, model_card
from vispco.errors import ConfigError, DataError, ModelError
from vispco.evaluation import generate_answers, generate_texts, prompt_text

INSTALLED = importlib.util.find_spec("lmms_eval") is not None
KEEP = (1.0, 1.0, 0.5, 0.5, 0.3, 0.3, 0.2, 0.2)
ROOT = Path(__file__).parents[2]
GREEDY = {"max_new_tokens": 4, "temperature": 0, "do_sample": False}


@pytest.fixture(scope="module")
def samples():
    return load_samples("shapes", "test", 12)


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(scope="module")
def best(micro, tmp_path_factory):
    """The file of a configuration under which the micro model answers differently."""
    file = tmp_path_factory.mktemp("best") / "best.json"
    config = PruningConfig(selector="fastv", keep=KEEP, model=model_card(micro[0], "micro-llava"))
    file.write_text(config.to_json())
    return file


@pytest.fixture(scope="module")
def answers(micro, samples, best):
    """What ``vispco eval`` scores, by pruned or not."""
    model, processor = micro

    def said(config):
        with prune(model, config) if config else nullcontext():
            return generate_answers(model, processor, samples, batch_size=3, max_new_tokens=4)

    return {True: said(PruningConfig.load(best)), False: said(None)}


@pytest.fixture
def harness(monkeypatch, tmp_path):
    """Our module over the stand-in, and its class of requests."""
    names = install(monkeypatch, tmp_path, "lmms_eval", LMMS_EVAL)
    yield importlib.import_module("vispco.integrations.lmms_eval")
    forget(names)


def requests_of(harness, model, documents, settings=None):
    """Requests for documents of (question, images), as lmms-eval builds them."""
    model.task_dict = {"task": {"test": [images for _, images in documents]}}
    return [
        harness.Instance(
            "generate_until", (question, dict(settings or GREEDY), lambda images: images, row, "task", "test")
        )
        for row, (question, _) in enumerate(documents)
    ]


def opened(harness, **arguments):
    return harness.Vispco(pretrained="micro-llava", **arguments)


@pytest.mark.parametrize("pruned", [True, False])
def test_answers_are_those_of_the_program(pruned, harness, samples, best, answers):
    model = opened(harness, batch_size=3, **({"config": str(best)} if pruned else {}))
    documents = [(sample.question, [sample.image]) for sample in samples]
    kept = []
    model.cache_hook.add_partial = lambda *partial: kept.append(partial)
    assert model.generate_until(requests_of(harness, model, documents)) == answers[pruned]
    assert answers[True] != answers[False]
    assert [(kind, args[0], said) for kind, args, said in kept] == [
        ("generate_until", question, said) for (question, _), said in zip(documents, answers[pruned], strict=True)
    ]
    assert (model.rank, model.world_size, model.device.type) == (0, 1, "cpu")


def test_requests_keep_their_order_and_settings(harness, samples, answers, monkeypatch):
    """Batches hold requests with the same settings, all with images or all without."""
    model = opened(harness, batch_size=3)
    documents = [(sample.question, [sample.image]) for sample in samples]
    documents[4] = ("what color is the sky ?", None)
    requests = requests_of(harness, model, documents)
    requests[1].args[1]["max_new_tokens"] = 2
    seen = []

    def texts(network, processor, prompts, images, **options):
        seen.append((len(prompts), {len(own) for own in images}, options["max_new_tokens"]))
        return [f" {prompt} " for prompt in prompts]

    monkeypatch.setattr(harness, "generate_texts", texts)
    said = model.generate_until(requests)
    assert sorted(seen) == sorted([(3, {1}, 4)] * 3 + [(1, {1}, 4), (1, {1}, 2), (1, {0}, 4)])
    assert said == [prompt_text(model.processor, question, 0 if own is None else 1) for question, own in documents]


@pytest.mark.parametrize("number", [0, 2])
def test_no_image_and_several(number, harness, micro, samples, best):
    model = opened(harness, config=str(best))
    images = [sample.image for sample in samples[:number]]
    [said] = model.generate_until(requests_of(harness, model, [("<image> <image> what color is it ?", images)]))
    network, processor = micro
    question = prompt_text(processor, "what color is it ?", number)
    with torch.no_grad(), prune(network, PruningConfig.load(best)) as pruned:
        [expected] = generate_texts(network, processor, [question], [images], do_sample=False, max_new_tokens=4)
    assert said == expected.strip()
    assert pruned.kept_counts[0].tolist() == [100 * number]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"max_new_tokens": 1024, "do_sample": False}),
        (
            {"max_new_tokens": 7, "temperature": 0, "top_p": 1.0, "num_beams": 2, "until": ["\n"], "other": 1},
            {"max_new_tokens": 7, "do_sample": False, "num_beams": 2},
        ),
        (
            {"temperature": 0.7, "top_p": 0.9, "num_beams": None},
            {"max_new_tokens": 1024, "do_sample": True, "temperature": 0.7, "top_p": 0.9},
        ),
        ({"temperature": 0.7, "do_sample": False}, {"max_new_tokens": 1024, "do_sample": False}),
        ({"temperature": None, "do_sample": True}, {"max_new_tokens": 1024, "do_sample": False}),
    ],
)
def test_answers_are_greedy_unless_a_task_asks(settings, expected, harness):
    assert harness._options(settings) == expected


def test_answers_end_at_the_first_stop_string(harness, samples, monkeypatch):
    model = opened(harness)
    monkeypatch.setattr(harness, "generate_texts", lambda *args, **options: ["one\ntwo ; three"])
    for until, expected in (
        ("\n", "one"),
        ([" ;", "two"], "one"),
        ([], "one\ntwo ; three"),
        (None, "one\ntwo ; three"),
    ):
        settings = {**GREEDY, "until": until}
        assert model.generate_until(requests_of(harness, model, [("?", [samples[0].image])], settings)) == [expected]


def test_what_is_no_image_is_refused(harness):
    model = opened(harness)
    with pytest.raises(DataError, match="task 0: str is no image"):
        model.generate_until(requests_of(harness, model, [("?", ["film.mp4"])]))
    modes = [picture.mode for picture in harness._pictures([Image.new("L", (8, 8)), Image.new("P", (8, 8))], "task 0")]
    assert modes == ["RGB", "RGB"], "as samples of the program are"


def test_other_kinds_of_requests_are_refused(harness):
    model = opened(harness)
    for call in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="choose a task with output_type: generate_until"):
            call([])


def test_arguments_that_cannot_be_used_are_refused(harness, tmp_path, best):
    for arguments, error, words in (
        ({"batch_size": "auto"}, ConfigError, "batch_size=auto is no whole number"),
        ({"batch_size": 0}, ConfigError, "batch_size=0 is no whole number"),
        ({"revision": 1.1}, ConfigError, r"reads revision=1\.1 as a number; give the whole commit"),
        ({"config": str(tmp_path / "none.json")}, ConfigError, r"none\.json"),
        ({"dtype": "int3"}, ModelError, "int3"),
        ({"attention": "none"}, ModelError, "none"),
        ({"device": "cuda:99"}, ModelError, r"model\.device_map=cuda:99"),
        ({"device": "cuda:99", "device_map": "gpu"}, ModelError, r"model\.device_map=gpu"),
    ):
        with pytest.raises(error, match=words):
            opened(harness, **arguments)


def test_configurations_are_held_against_the_model(harness, tmp_path, best):
    record = json.loads(best.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**record, "model": {**record["model"], "fingerprint": "0" * 16}}))
    with pytest.warns(UserWarning, match=rf"made for weights {'0' * 16} \(micro-llava\), these are"):
        opened(harness, config=str(other))
    other.write_text(json.dumps({**record, "model": {"type": "qwen2_vl", "layers": 8}}))
    with pytest.raises(ConfigError, match="is for qwen2_vl with 8 decoder layers"):
        opened(harness, config=str(other))


@pytest.mark.usefixtures("harness")
def test_lmms_eval_finds_the_model():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, function = points["lmms_eval.models"]["vispco"].split(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert manifest.model_id == "vispco"
    path, name = manifest.simple_class_path.rsplit(".", 1)
    assert getattr(importlib.import_module(path), name).is_simple


@pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed")
@pytest.mark.parametrize("pruned", [True, False])
def test_the_real_harness_scores_the_same(pruned, samples, best, answers, tmp_path):
    write_task(tmp_path, samples)
    arguments = "pretrained=micro-llava" + (f",config={best}" if pruned else "")
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "vispco", "--model_args", arguments, "--tasks", "shapes_world",
        "--include_path", str(tmp_path), "--batch_size", "3", "--log_samples", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=280)
    tables = list((tmp_path / "out").rglob("*_results.json"))
    assert len(tables) == 1, done.stdout + done.stderr  # it exits with 0 whatever happens
    [log] = (tmp_path / "out").rglob("*_samples_shapes_world.jsonl")
    rows = sorted(map(json.loads, log.read_text().splitlines()), key=lambda row: row["doc_id"])
    assert [row["filtered_resps"] for row in rows] == answers[pruned]
    score = sum(said == sample.answer for said, sample in zip(answers[pruned], samples, strict=True)) / len(samples)
    assert json.loads(tables[0].read_text())["results"]["shapes_world"]["exact,none"] == pytest.approx(score)
