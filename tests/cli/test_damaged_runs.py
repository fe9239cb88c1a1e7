"""Run folders from elsewhere: what is damaged is refused in one line, and what is odd is shown as it is."""

import json
import time

import fuzz_seeds as seeds
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vispco.cli import main
from vispco.cli.seeds import seed_groups
from vispco.config import PruningConfig
from vispco.errors import RunError
from vispco.frontier import append_points
from vispco.runs import read_composed

ODD = "[/bold] [red]\x1b[2J</td>"
"""Closes what rich has not opened, asks for a colour, and clears the screen."""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "frontier.json").write_bytes(seeds.frontier_files()[0])
    (tmp_path / "points.jsonl").write_bytes(seeds.points_files()[0])
    (tmp_path / "config.yaml").write_bytes(seeds.run_configurations()[0])
    return tmp_path


def refused(capsys, *words):
    assert main([*map(str, words)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def changed(run, change):
    record = json.loads((run / "frontier.json").read_text())
    change(record)
    (run / "frontier.json").write_text(json.dumps(record))


@pytest.mark.parametrize("content", ["[]", "3", "null", '"x"', '{"report_split": 3}', '{"configs": {}}', "[" * 99_999])
def test_another_document_in_place_of_the_result(run, content, capsys):
    (run / "frontier.json").write_text(content)
    for words in (("export", run, "--budget", "0.5", "-o", run / "best.json"), ("compare", run, "--wandb", "none")):
        assert refused(capsys, *words).startswith(f"vispco: {run / 'frontier.json'}: ")
    assert not (run / "best.json").exists()


def test_a_result_that_does_not_name_its_split(run, capsys):
    changed(run, lambda record: record.pop("report_split"))
    assert "has no points of split None; run the search again" in refused(capsys, "compare", run, "--wandb", "none")


def test_configurations_that_cannot_be_used(run, capsys):
    words = ("export", run, "--budget", "0.5", "-o", run / "best.json")
    changed(run, lambda record: record["configs"][1].update(keep=[0.5, 1.0, 0.5, 0.5]))
    assert f"{run / 'frontier.json'}, configuration 2: field keep: " in refused(capsys, *words)
    (run / "frontier.json").write_bytes(seeds.frontier_files()[0])
    changed(run, lambda record: record["configs"][1]["quality"].pop("kl"))
    assert "has no quality 'kl' to choose by" in refused(capsys, *words)


def test_names_of_strangers_are_shown_as_they_are(run, capsys):
    points = [point.model_copy(update={"method": f"learned {ODD}"}) for point in seeds.points()]
    (run / "points.jsonl").unlink()
    append_points(run, points)
    assert main(["compare", str(run), "--wandb", "none", "-o", str(run / "both.png")]) == 0
    shown = capsys.readouterr().out
    assert ODD.replace("\x1b", "\\x1b") in shown.replace("\n", " ")
    assert "\x1b" not in shown


def test_what_export_says_is_one_printable_line(run, capsys):
    changed(run, lambda record: record["configs"][0].update(costs={ODD: 0.1, "flops": 0.1}))
    changed(run, lambda record: record.update(configs=record["configs"][:1], cost=ODD))
    assert main(["export", str(run), "--budget", "0.5", "-o", str(run / "best.json")]) == 0
    assert capsys.readouterr().out[:-1].isprintable()
    assert PruningConfig.load(run / "best.json").provenance["cost"] == ODD
    changed(run, lambda record: record["configs"][0].update(selector=ODD))
    words = ("--project-to-input", "random", "-o", str(run / "best.json"))
    assert main(["export", str(run), "--budget", "0.5", *words]) == 0
    said = capsys.readouterr().out[:-1]
    assert said.isprintable()
    assert "[/bold] [red]\\x1b[2J" in said


# --- settings of runs ------------------------------------------------------------------------------------------------


def bomb(depth):
    lists = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, depth)]
    return "seed: 0\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(lists)


def test_a_few_lines_that_stand_for_billions_of_values(run):
    """Written out, these 300 bytes are a billion words."""
    (run / "config.yaml").write_text(bomb(9))
    began = time.monotonic()
    assert seed_groups([str(run), str(run)]) == []
    with pytest.raises(RunError, match=r"config\.yaml: no configuration of a run \(it has aliases\)"):
        read_composed(run / "config.yaml")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "text", ["seed: [1]", "seed: x", "[1]", "{", "seed: 1\n1: 2\na: 3\n", "seed: 1\na: !!python/name:os.system"]
)
def test_settings_that_are_none(run, text):
    (run / "config.yaml").write_text(text)
    assert seed_groups([str(run), str(run)]) == []


def test_interpolations_are_not_resolved(run, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hush")
    (run / "config.yaml").write_text("seed: 1\nkey: ${oc.env:WANDB_API_KEY}\n")
    assert read_composed(run / "config.yaml")["key"] == "${oc.env:WANDB_API_KEY}"


# --- predictors ------------------------------------------------------------------------------------------------------


def rewritten(path, change):
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    record = json.loads(header["vispco"])
    change(record, tensors)
    save_file(tensors, path, {"vispco": json.dumps(record)})


def predict(run):
    return ("export", run, "--budget", "0.5", "--predict", "-o", run / "best.json")


def test_a_predictor_whose_numbers_are_none(run, capsys):
    (run / "predictor.safetensors").write_bytes(seeds.predictors()[0])
    rewritten(run / "predictor.safetensors", lambda record, tensors: tensors["starts"].fill_(torch.nan))
    assert "(its numbers are not finite); run the search again" in refused(capsys, *predict(run))
    assert not (run / "best.json").exists()


def test_a_predictor_of_an_impossible_model(run, capsys):
    """Whatever transformers says of it, which is no ValueError."""
    (run / "predictor.safetensors").write_bytes(seeds.predictors()[0])
    rewritten(run / "predictor.safetensors", lambda record, tensors: record["decoder"].update(num_attention_heads=32))
    assert "not a predictor that this version can read" in refused(capsys, *predict(run))


def test_a_predictor_knows_its_own_cost(run, capsys):
    (run / "predictor.safetensors").write_bytes(seeds.predictors()[0])
    rewritten(run / "predictor.safetensors", lambda record, tensors: record["provenance"].update(cost="other"))
    assert main([*map(str, predict(run))]) == 0
    assert PruningConfig.load(run / "best.json").provenance["cost"] == "flops"
    capsys.readouterr()
