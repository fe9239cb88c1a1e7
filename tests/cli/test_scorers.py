"""A search reports the official score of its data, by `generate`."""

import json

import pytest

import vispco
from vispco.cli import main
from vispco.cli.official import judge_of
from vispco.cli.overrides import parse_overrides

OPTIONS = [
    "data.search_samples=12",
    "data.report_samples=12",
    "data.scorer=exact_match",
    "data.batch_size=6",
    "search=step",
    "search.ladder=[0.3,0.02]",
    "budget.values=[0.5,0.8]",
    "tracker=none",
    "progress=false",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers") / "a"
    assert main(["search", *OPTIONS, f"hydra.run.dir={folder}"]) == 0
    return folder


def test_scores_are_official_on_the_report_split_and_called_otherwise_while_searching(run):
    points = vispco.read_points(run)
    qualities = {split: {tuple(p.quality) for p in points if p.split == split} for split in ("validation", "test")}
    assert qualities == {"validation": {("answer_tokens", "kl")}, "test": {("score", "kl")}}
    assert len({point.data for point in points}) == 2


def test_what_eval_says_is_what_the_search_reported(run, tmp_path):
    best, target = tmp_path / "best.json", tmp_path / "scores.json"
    assert main(["export", str(run), "--budget", "0.5", "-o", str(best)]) == 0
    sizes = [option for option in OPTIONS if option.startswith("data.")]
    assert main(["eval", str(best), *sizes, "--controls", "none", "-o", str(target)]) == 0
    record = json.loads(target.read_text())
    reported = {point.name: point for point in vispco.read_points(run) if point.split == "test"}
    score = vispco.PruningConfig.load(best).quality["score"]
    assert record["results"]["fastv"]["score"][0] == pytest.approx(score)
    assert record["results"]["unpruned"]["score"][0] == pytest.approx(reported["unpruned"].quality["score"])
    assert score < reported["unpruned"].quality["score"]
    assert {point.data for point in reported.values()} == {record["provenance"]["data"]}


def test_words_the_tokenizer_does_not_know(tmp_path, capsys):
    """The embedded vocabulary has "yes" but no "Yes"."""
    from vispco.embedded import shapes

    table = tmp_path / "table.tsv"
    shapes.write_tsv(table, "test", 8, 0)
    head, *rows = table.read_text().splitlines()
    place = head.split("\t").index("answer")
    cells = [row.split("\t") for row in rows]
    lines = [head, *("\t".join([*row[:place], row[place].title(), *row[place + 1 :]]) for row in cells)]
    table.write_text("\n".join(lines) + "\n")
    overrides = [*OPTIONS, f"data.path={table}", "data.split_by=hash", f"hydra.run.dir={tmp_path / 'x'}"]
    assert main(["search", *overrides, "data.scorer=answer_tokens"]) == 2
    assert "give data.scorer=exact_match" in capsys.readouterr().err


def test_scores_of_longer_answers_are_other_numbers():
    """Points of both do not merge; where answers are read off teacher forcing, their length has no say."""
    judges = {
        scorer: {
            judge_of(parse_overrides([f"data.scorer={scorer}", f"data.max_new_tokens={n}"]).data) for n in (4, 4, 8)
        }
        for scorer in ("exact_match", "answer_tokens")
    }
    assert {scorer: len(found) for scorer, found in judges.items()} == {"exact_match": 2, "answer_tokens": 1}
