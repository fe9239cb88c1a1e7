"""``vispco bench``: from an exported file to a table and JSON; bad input is one line, before anything long."""

import json
import sys

import pytest

from vispco import ModelCard, PruningConfig
from vispco.cli import main
from vispco.data import load_samples
from vispco.profiling import WARM_UP

MODULE = sys.modules["vispco.cli.bench"]
SMALL = ["--pairs", "1", "--new-tokens", "2", "data.report_samples=6"]


def save(path, layers=8):
    keep = (1.0, 1.0, *[0.3] * (layers - 2))
    PruningConfig(selector="fastv", keep=keep, model=ModelCard(type="llava", layers=layers)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return save(tmp_path_factory.mktemp("exported") / "best.json")


def test_the_bench_prints_a_table_and_writes_json(exported, tmp_path, capsys):
    target = tmp_path / "bench.json"
    assert main(["bench", exported, *SMALL, "--batch", "2", "-o", str(target), "--clock", "cpu"]) == 0
    said = capsys.readouterr().out
    for words in ("time to first token, ms", "tokens per second", "KV cache", "peak memory", "FLOPs", "choosing",
                  "stock against itself", "drift", "sdpa; cpu clock, 1 rounds"):  # fmt: skip
        assert words in said
    content = json.loads(target.read_text())
    # 100 visual tokens, 30 of them from layer 2 on, beside the text of the longer of two questions.
    [most] = content["protocol"]["prompt_tokens"][-1:]
    ratio = (2 * most + 6 * (most - 70)) / (8 * most)
    assert content["kv"]["ratio"]["value"] == pytest.approx(ratio)
    assert content["environment"]["batch"] == 2
    assert content["protocol"]["clock"] == "cpu"
    assert content["protocol"]["batches"] == 3  # six samples, not more, though there are rounds for eight
    assert ("no energy" in said) == (content["energy"] is None)


@pytest.fixture
def asked(monkeypatch):
    """What the bench would be asked; nothing runs."""
    calls = []

    def remember(model, inputs, config, **options):
        calls.append((inputs, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "bench", remember)
    return calls


def test_every_round_has_prompts_of_its_own(exported, asked, capsys):
    assert main(["bench", exported, "--pairs", "3", "--batch", "2"]) == 2
    [(inputs, options)] = asked
    assert len(inputs) == 3 + WARM_UP
    assert all(len(batch["input_ids"]) == 2 and "pixel_values" in batch for batch in inputs)
    assert (options["rounds"], options["new_tokens"], options["clock"]) == (3, 32, "wall")


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


BAD = {
    "no batch": (["--batch", "0"], ["--batch", "'0'", "at least 1"]),
    "no pairs": (["--pairs", "-3"], ["--pairs", "'-3'"]),
    "half a token": (["--new-tokens", "1.5"], ["--new-tokens", "'1.5'"]),
    "unknown clock": (["--clock", "sun"], ["--clock", "sun", "wall"]),
    "unknown option": (["--fast"], ["--fast", "vispco bench --help"]),
    "unknown override": (["data.splits=test"], ["data.splits"]),
    "no folder": (["-o", "/nowhere/x.json"], ["/nowhere/x.json", "cannot be written"]),
    "batch above the samples": (["--batch", "9", "data.report_samples=8"], ["--batch 9", "report_samples=8"]),
    "no checkpoint": (["model.path=/nowhere"], ["/nowhere", "config.json"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_two(case, exported, asked, capsys):
    options, words = BAD[case]
    assert main(["bench", exported, *options]) == 2
    line = one_line(capsys)
    assert all(word in line for word in words), line
    assert not asked


def test_files_that_are_no_configuration_and_places_that_are_folders(exported, tmp_path, asked, capsys):
    assert main(["bench"]) == 2
    assert "config" in one_line(capsys)
    assert main(["bench", str(tmp_path / "none.json")]) == 2
    assert "none.json" in one_line(capsys)
    assert main(["bench", exported, "-o", str(tmp_path)]) == 2
    assert "it is a folder" in one_line(capsys)
    assert not asked


def test_a_configuration_for_another_model(tmp_path, monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(sys.modules["vispco.profiling.bench"], "_baseline", lambda *_: measured.append(1))
    target = tmp_path / "bench.json"
    assert main(["bench", save(tmp_path / "deep.json", layers=9), *SMALL, "-o", str(target)]) == 2
    assert "9 decoder layers" in one_line(capsys)
    assert not measured
    assert not target.exists()


def test_data_with_too_few_samples(exported, monkeypatch, asked, capsys):
    samples = load_samples("shapes", "test", 3)
    monkeypatch.setattr(MODULE, "load_report", lambda *_: samples)
    assert main(["bench", exported, "--batch", "4"]) == 2
    line = one_line(capsys)
    assert "3 samples" in line
    assert "--batch 4" in line
    assert not asked
