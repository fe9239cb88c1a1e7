"""`vispco eval`: one configuration against the unpruned model and controls, by stock `generate`."""

import json

import pytest
from tables import encoded, write_tsv

from vispco import PruningConfig
from vispco.cli import main
from vispco.data import load_samples, make_scorer
from vispco.engine import load_checkpoint, model_card
from vispco.evaluation import generate_answers

SIZE = ["data.report_samples=16", "data.batch_size=8"]


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    model, _ = load_checkpoint("micro-llava")
    path = tmp_path_factory.mktemp("eval") / "best.json"
    PruningConfig(selector="fastv", keep=(1.0, 1.0) + (0.02,) * 6, model=model_card(model)).save(path)
    return path


def test_everything_is_written_and_right(best, tmp_path, capsys):
    files = {"-o": tmp_path / "scores.json", "--answers": tmp_path / "answers.jsonl"}
    assert main(["eval", str(best), *SIZE, *(str(word) for pair in files.items() for word in pair)]) == 0
    shown = capsys.readouterr().out
    record = json.loads(files["-o"].read_text())
    names = ["unpruned", "fastv", "control: random", "control: uniform_grid", "control: downsampled"]
    assert list(record["results"]) == names
    model, processor = load_checkpoint("micro-llava")
    samples = load_samples("shapes", "test", 16)
    said = generate_answers(model, processor, samples, batch_size=8, max_new_tokens=8)
    right = [make_scorer("exact_match").score(text, sample) for text, sample in zip(said, samples, strict=True)]
    unpruned, pruned = record["results"]["unpruned"], record["results"]["fastv"]
    assert unpruned["score"][0] == pytest.approx(sum(right) / 16)
    assert pruned["change"][0] == pytest.approx(pruned["score"][0] - unpruned["score"][0])
    assert pruned["retained"][0] == pytest.approx(pruned["score"][0] / unpruned["score"][0])
    assert pruned["change"][0] < 0
    losses = {name: entry["change"][0] for name, entry in pruned["slices"].items()}
    assert losses[pruned["worst_slice"]] == min(losses.values())
    assert sum(entry["samples"] for entry in pruned["slices"].values()) == 16
    assert record["visual_tokens"]["merged"] == record["visual_tokens"]["raw"] == 100
    assert record["visual_tokens"]["kept_merged"] == pytest.approx((2 * 100 + 6 * 2) / 8)
    for text in ("retained", "worst slice", "100.0 patches", "[95 %]"):
        assert text in shown
    lines = [json.loads(line) for line in files["--answers"].read_text().splitlines()]
    assert len(lines) == 5 * 16
    ours = [line for line in lines if line["configuration"] == "unpruned"]
    assert [line["answer"] for line in ours] == said
    assert [line["score"] for line in ours] == right


def test_controls_are_a_choice(best, tmp_path, capsys):
    target = tmp_path / "scores.json"
    assert main(["eval", str(best), *SIZE, "--controls", "uniform_grid", "-o", str(target)]) == 0
    assert list(json.loads(target.read_text())["results"]) == ["unpruned", "fastv", "control: uniform_grid"]
    assert main(["eval", str(best), *SIZE, "--controls", "none", "-o", str(target)]) == 0
    assert list(json.loads(target.read_text())["results"]) == ["unpruned", "fastv"]
    capsys.readouterr()


REFUSED = {
    "no file": ([], "config"),
    "unknown control": (["{best}", "--controls", "luck"], "'luck'"),
    "unknown scorer": (["{best}", "data.scorer=vibes"], "'vibes'"),
    "scorer setting": (["{best}", "data.scorer=exact_match", "+data.scorer_params.strict=1"], "strict"),
    "place": (["{best}", "-o", "/nowhere/a.json"], "/nowhere/a.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_line(case, best, capsys):
    words, text = REFUSED[case]
    assert main(["eval", *(word.format(best=best) for word in words), *SIZE]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert text in lines[0]


def test_names_in_a_table_are_no_instructions(best, tmp_path, capsys):
    """Slices and answers of a stranger's table; "[/b]" would be markup, and an error at that."""
    rows = [(encoded(color=(n, 0, 0)), "what color ?", "red", f"[/b] [red]{n % 2}\x1b[2J", "test") for n in range(4)]
    table = write_tsv(tmp_path / "t.tsv", *rows, header=("image", "question", "answer", "category", "split"))
    data = ["data=table", f"data.path={table}", "data.report_samples=4", "data.max_new_tokens=1"]
    assert main(["eval", str(best), *data, "--controls", "random"]) == 0
    shown = capsys.readouterr()
    assert "[/b] [red]0\\x1b[2J" in shown.out
    assert "\x1b" not in shown.out + shown.err.replace("\x1b[?25", "")
