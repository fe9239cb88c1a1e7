"""Every benchmark preset composes, fits its scorer and its template, and stands in docs/benchmarks.md as it is."""

import io
import re
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from vispco.data import Picture, Row, Task, make_scorer
from vispco.data.scorers import REGISTRY
from vispco.errors import ConfigError
from vispco.runs import RunSettings

ROOT = Path(__file__).parents[2]
EIGHT = ("aokvqa", "vizwiz", "seedbench", "mmbench", "mme", "chartqa", "ocrbench", "textvqa")
OTHERS = ("pope", "gqa", "scienceqa", "refcoco")
# One row of each kind of scorer, and an answer that is right.
ROWS = {
    "options": (("B",), {"A": "cat", "B": "dog"}, "B"),
    "vqa": (("red",) * 10, {}, "Red"),
    "chartqa": (("14",), {}, "14"),
    "ocrbench": (("Centre",), {}, "It says centre"),
    "mme": (("Yes",), {}, "Yes"),
    "pope": (("Yes",), {}, "Yes"),
    "exact_match": (("left",), {}, "Left"),
    "grounding": (("[0, 0, 10, 10]",), {}, "[0, 0, 0.5, 1]"),
}

benchmarks = pytest.mark.parametrize("name", EIGHT + OTHERS)


@cache
def composed(name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = OmegaConf.to_container(compose(name), resolve=True)
    plain.pop("experiment", None)
    return plain


def settings_of(name, **data):
    """Settings of a search with a preset."""
    return RunSettings.parse({**composed("search"), "data": {**composed(f"data/{name}")["data"], **data}})


def data_of(name):
    return settings_of(name, path="some.tsv").data


def row(scorer, hint=""):
    answers, options, _ = ROWS[scorer]
    file = io.BytesIO()
    Image.new("RGB", (20, 10)).save(file, "PNG")
    return Row("1", "some.tsv, line 2", Picture(file.getvalue()), "Where is it?", answers, options, hint)


@benchmarks
def test_a_preset_fits_its_scorer_and_its_template(name):
    data = data_of(name)
    scorer = make_scorer(data.scorer, data.scorer_params)
    sample = Task(data.prompt).sample(row(data.scorer))
    scorer.check(sample)
    assert "Where is it?" in sample.question
    assert "\n\n" not in sample.question
    assert scorer.score(ROWS[data.scorer][2], sample) == 1
    assert scorer.score("", sample) == 0
    assert data.split_by == "hash"
    assert sum(data.fractions.values()) == pytest.approx(1)
    assert {data.search_split, data.report_split} == data.fractions.keys()


def test_the_prompt_of_multiple_choice():
    sample = Task(data_of("mmbench").prompt).sample(row("options", hint="A map."))
    assert sample.question == (
        "A map.\nWhere is it?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    )


def test_presets_are_those_that_build_on_the_common_one():
    built = {path.stem for path in (ROOT / "conf" / "data").glob("*.yaml") if "- benchmark" in path.read_text()}
    assert built == {*EIGHT, *OTHERS}


@benchmarks
def test_a_preset_without_a_file_is_refused_in_one_line(name):
    with pytest.raises(ConfigError, match=r"^data: data.path is not given; name a table with data.path=\.\.\.$"):
        settings_of(name)


def table():
    """What docs/benchmarks.md has to hold of the presets."""
    lines = ["| `data=` | scorer | new tokens | prompt |", "| --- | --- | --- | --- |"]
    for name in EIGHT + OTHERS:
        data = data_of(name)
        params = "".join(f", {key} = {value}" for key, value in data.scorer_params.items())
        prompt = data.prompt.replace("\n", "⏎")
        lines.append(f"| {name} | {data.scorer}{params} | {data.max_new_tokens} | `{prompt}` |")
    return "\n".join(lines)


def test_the_page_shows_the_presets():
    assert table() in (ROOT / "docs" / "benchmarks.md").read_text(), f"put this into docs/benchmarks.md:\n{table()}"


@benchmarks
def test_the_page_says_where_a_benchmark_comes_from(name):
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert len(re.findall(rf"^\| {name} \| `[^`]+\.tsv` \| arXiv [^|]+ \| [^|]+ \|$", page, re.MULTILINE)) == 1


@pytest.mark.parametrize("scorer", REGISTRY)
def test_the_page_says_what_a_scorer_gives(scorer):
    section = (ROOT / "docs" / "benchmarks.md").read_text().partition("## How answers are scored")[2]
    assert len(re.findall(rf"^\| {scorer} \| ", section, re.MULTILINE)) == 1
