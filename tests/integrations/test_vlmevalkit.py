"""The wrapper for VLMEvalKit that stands in the documents answers as the program does."""

import re
from pathlib import Path

import pytest
from stubs import VLMEVALKIT, forget, install

from vispco import PruningConfig, prune
from vispco.data import load_samples
from vispco.embedded import locate
from vispco.engine import load_checkpoint, model_card
from vispco.evaluation import generate_answers

PAGE = Path(__file__).parents[2] / "docs" / "harnesses.md"

RUN = """
from vlmeval.config import supported_VLM

def ask(name, messages):
    model = supported_VLM[name]()
    return [model.generate(message=message, dataset="shapes") for message in messages]

supported_VLM["asked"] = ask
"""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What its ``run.py`` calls, with the snippet run as a user would."""
    install(monkeypatch, tmp_path, "vlmeval", VLMEVALKIT)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.py").write_text(RUN)
    [snippet] = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope = {}
    exec(compile(snippet.replace("/my/model", str(locate("micro-llava"))), str(PAGE), "exec"), scope)
    yield scope["supported_VLM"]["asked"]
    forget(["vlmeval"])


def test_the_wrapper_answers_as_the_program(asked, tmp_path):
    samples = load_samples("shapes", "test", 8)
    messages = []
    for index, sample in enumerate(samples):
        sample.image.save(tmp_path / f"{index}.png")
        picture = {"type": "image", "value": str(tmp_path / f"{index}.png")}
        messages.append([picture, {"type": "text", "value": sample.question}])
    model, processor = load_checkpoint("micro-llava")
    config = PruningConfig(selector="fastv", keep=(1.0, 0.3, *[0.1] * 6), model=model_card(model))
    (tmp_path / "best.json").write_text(config.to_json())
    unpruned = generate_answers(model, processor, samples, batch_size=1, max_new_tokens=512)
    with prune(model, config):
        pruned = generate_answers(model, processor, samples, batch_size=1, max_new_tokens=512)
    assert asked("unpruned", messages) == unpruned
    assert asked("pruned", messages) == pruned != unpruned
    with pytest.raises(AssertionError, match="Invalid input type: video"):
        asked("pruned", [[{"type": "video", "value": "film.mp4"}]])
    assert len(asked("unpruned", [[{"type": "text", "value": "what color is the sky ?"}]])) == 1
