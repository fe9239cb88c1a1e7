"""An exported projection is one ratio before the first layer, and says that it was not measured."""

import json

import pytest

from vispco.cli import main
from vispco.config import PruningConfig

CONFIG = {
    "selector": "fastv",
    "keep": [1.0, 0.5, 0.3, 0.2],
    "model": {"type": "llava", "layers": 4},
    "costs": {"flops": 0.6},
    "quality": {"kl": 0.1},
}


@pytest.fixture
def run(tmp_path):
    """A folder as a finished search leaves it, with a cheaper and a better configuration."""
    cheaper = {**CONFIG, "keep": [1.0, 0.1, 0.1, 0.1], "costs": {"flops": 0.4}, "quality": {"kl": 0.9}}
    (tmp_path / "frontier.json").write_text(json.dumps({"configs": [cheaper, CONFIG]}))
    return tmp_path


def export(run, *options):
    return main(["export", str(run), "--budget", "0.7", "-o", str(run / "best.json"), *options])


def test_projection_of_the_best_configuration(run, capsys):
    assert export(run, "--project-to-input", "random") == 0
    config = PruningConfig.load(run / "best.json")
    assert config.keep == (0.5,) * 4
    assert (config.selector, config.budget, config.costs, config.quality) == ("random", 0.7, {}, {})
    assert config.provenance["projected_from"] == CONFIG["keep"]
    said = capsys.readouterr().out
    assert "keep 0.5 before the first layer, not measured. Of the visual tokens, layer 0 sees 50 %" in said
    assert "by random instead of fastv" in said


def test_without_the_option_the_schedule_is_exported(run):
    assert export(run) == 0
    assert PruningConfig.load(run / "best.json") == PruningConfig(**CONFIG, budget=0.7, provenance={"cost": "flops"})


def test_an_unknown_selector_is_refused_before_anything_is_written(run, capsys):
    assert export(run, "--project-to-input", "fastw") == 2
    assert "selector 'fastw' is unknown; choose one of" in capsys.readouterr().err
    assert not (run / "best.json").exists()


def test_a_budget_may_be_of_another_cost(run, capsys):
    both = [
        {**CONFIG, "costs": {"flops": 0.6, "kv": 0.9}},
        {**CONFIG, "costs": {"flops": 0.65, "kv": 0.5}, "quality": {"kl": 0.2}},
    ]
    (run / "frontier.json").write_text(json.dumps({"configs": both, "cost": "flops"}))
    assert export(run) == 0
    assert PruningConfig.load(run / "best.json").costs["kv"] == 0.9
    assert export(run, "--cost", "kv") == 0
    config = PruningConfig.load(run / "best.json")
    assert (config.costs["kv"], config.provenance["cost"]) == (0.5, "kv")
    assert "0.500 of the unpruned kv" in capsys.readouterr().out
    (run / "frontier.json").write_text(json.dumps({"configs": both, "cost": "kv"}))
    assert export(run) == 0
    assert PruningConfig.load(run / "best.json").costs["kv"] == 0.5, "the cost of the run's budgets is the default"
    assert export(run, "--cost", "latency") == 2
    assert "cost 'latency' is not known in this run; choose one of flops, kv" in capsys.readouterr().err
