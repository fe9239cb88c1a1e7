"""The program with schedules that are fitted to calibration samples, on the embedded default made small."""

import json

import pytest
import torch

import vispco
from vispco.cli import main
from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import prompt_text

TINY = ["data.search_samples=16", "data.report_samples=16", "search.samples=12", "progress=false", "tracker=none"]


def search(folder, *options):
    return main(["search", *TINY, *options, f"hydra.run.dir={folder}"])


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "fitprune"
    options = ["search=fitprune", "selector=fitprune", "search.bracket=0.2", "budget.values=[0.8,0.5]"]
    assert search(folder, *options) == 0
    return folder


def test_fitprune_writes_a_schedule_per_budget(fitted):
    record = json.loads((fitted / "frontier.json").read_text())
    assert record["method"] == "fitprune"
    assert [config["budget"] for config in record["configs"]] == [0.8, 0.5]
    assert record["indicators"]["fitprune forwards"] > 12
    points = [point for point in vispco.read_points(fitted) if point.method == "fitprune"]
    assert sorted((point.split, point.budget, point.samples) for point in points) == [
        ("test", 0.5, 16), ("test", 0.8, 16), ("validation", 0.5, 12), ("validation", 0.8, 12),
    ]  # fmt: skip
    for point in points:
        assert point.costs["flops"] <= point.budget + 0.002, "the splits differ a little in their texts"
    by_budget = {point.budget: point for point in points if point.split == "validation"}
    for config in record["configs"]:
        assert config["quality"]["kl"] == by_budget[config["budget"]].quality["kl"]
        assert tuple(config["keep"]) == by_budget[config["budget"]].keep
        assert config["selector"] == "fitprune"


@pytest.fixture(scope="module")
def withdrawn(tmp_path_factory):
    """Thresholds that nothing, the last layers and most layers meet."""
    folder = tmp_path_factory.mktemp("runs") / "vtw"
    options = ["search=vtw", "search.eta=[1e-9,0.7,2.5]", "search.first=3", "budget.values=[0.9,0.6,0.3]"]
    assert search(folder, *options) == 0
    return folder


def test_vtw_writes_a_schedule_per_threshold_that_is_met(withdrawn):
    record = json.loads((withdrawn / "frontier.json").read_text())
    points = [point for point in vispco.read_points(withdrawn) if point.method == "vtw"]
    searched = {point.keep.count(1.0): point for point in points if point.split == "validation"}
    assert [*searched] == [3, 4, 5, 6, 7]
    for point in searched.values():
        assert set(point.keep) == {0.0, 1.0}
    chosen = {min(layer for layer, point in searched.items() if point.quality["kl"] <= eta) for eta in (0.7, 2.5)}
    assert len(chosen) == 2
    assert {point.keep.count(1.0) for point in points if point.split == "test"} == chosen
    assert [config["budget"] for config in record["configs"]] == [0.9, 0.6], "none is within 0.3"
    late, early = record["configs"]
    assert (sum(late["keep"]), sum(early["keep"])) == (max(chosen), min(chosen))
    assert early["quality"]["kl"] == searched[min(chosen)].quality["kl"]


def test_a_withdrawal_is_exported_and_generates(withdrawn, tmp_path):
    assert main(["export", str(withdrawn), "--budget", "0.9", "-o", str(tmp_path / "best.json")]) == 0
    config = vispco.PruningConfig.load(tmp_path / "best.json")
    model, processor = load_checkpoint("micro-llava")
    sample = load_samples("shapes", "test", 1)[0]
    inputs = processor(text=prompt_text(processor, sample.question), images=sample.image, return_tensors="pt")
    with vispco.prune(model, config) as pruned:
        out = model.generate(**inputs, max_new_tokens=4)
    assert out.shape[1] > inputs["input_ids"].shape[1]
    assert pruned.kept_counts.flatten().tolist() == [int(100 * ratio) for ratio in config.keep]
    with torch.no_grad(), vispco.prune(model, config):
        assert model(**inputs).logits.isfinite().all()


BAD = {
    "no layer meets eta": (["search=vtw", "search.eta=[1e-9]"], ["eta = [1e-09]", "layer 7", "larger eta"]),
    "layers": (["search=vtw", "search.first=8"], ["first = 8", "1..7"]),
    "no budget": (
        ["search=vtw", "search.eta=[0.7]", "budget.values=[0.3]"],
        ["search=vtw", "[0.3]", "cheapest costs 0.883"],
    ),
    "eta": (["search=vtw", "search.eta=[0]"], ["search.eta.0"]),
    "bracket": (["search=fitprune", "search.bracket=0"], ["bracket"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, tmp_path, capsys):
    options, words = BAD[case]
    assert search(tmp_path / "x", *options) == 2
    line = one_line(capsys)
    assert all(word in line for word in words), line
