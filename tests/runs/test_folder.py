"""Run folders and settings."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vispco.cli.search import config_folder
from vispco.errors import ConfigError, RunError
from vispco.runs import RunFolder, RunSettings


def composed(*overrides):
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        plain = OmegaConf.to_container(compose("search", list(overrides)), resolve=True)
    plain.pop("experiment", None)
    return plain


def groups():
    folder = config_folder()
    return [
        f"{group.name}={file.stem}"
        for group in sorted(folder.iterdir())
        if group.is_dir() and group.name != "__pycache__"
        for file in sorted(group.glob("*.yaml"))
    ]


@pytest.mark.parametrize("override", groups())
def test_every_configuration_group_composes_and_validates(override):
    """With the file that is the user's to name; what benchmarks have in common is no data set by itself."""
    own = ["data.path=own.tsv"] if override.startswith("data=") else []
    if override == "data=benchmark":
        own += ["data.prompt='{question}'", "data.scorer=exact_match"]
    settings = RunSettings.parse(composed(override, *own))
    assert settings.seed == 0


def test_every_group_is_found():
    assert len(groups()) >= 15
    assert "tracker=wandb" in groups()


def test_wandb_is_offline_by_default():
    assert composed()["tracker"] == {"name": "wandb", "mode": "offline", "project": "vispco", "group": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": -1}, "seed"),
        ({"budget": {"values": []}}, "budget.values"),
        ({"budget": {"values": [float("nan")]}}, "budget.values.0"),
        ({"surprise": 1}, "surprise"),
        ({"search": {"name": "tpe"}}, r"^search\.trials = "),
        (
            {"search": {"name": "step", "ladder": [2.0]}},
            r"^search\.ladder\.0 = 2\.0.*override it with search\.ladder\.0=",
        ),
        ({"baseline": {"methods": [{"name": "grid", "ladder": [2.0]}]}}, r"^baseline\.methods\.0\.ladder\.0 = "),
    ],
)
def test_settings_name_the_bad_field(change, words):
    with pytest.raises(ConfigError, match=words):
        RunSettings.parse({**composed(), **change})


def test_a_folder_is_made_once(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b", "seed: 0\n")
    assert (tmp_path / "a" / "b" / "config.yaml").read_text() == "seed: 0\n"
    RunFolder.create(tmp_path / "a" / "b", "seed: 1\n")
    folder.points.write_text("")
    with pytest.raises(RunError, match="holds a run already"):
        RunFolder.create(tmp_path / "a" / "b", "seed: 2\n")
    assert (tmp_path / "a" / "b" / "config.yaml").read_text() == "seed: 1\n"


CONFIG = "seed: 0\nprogress: true\nbudget:\n  values: [0.5, 0.9]\n  limits: {}\nsearch: {name: grid}\n"


def files(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_text()) for path in folder.iterdir()}


def test_a_finished_run_stays_as_it_is(tmp_path):
    folder = RunFolder.create(tmp_path, CONFIG)
    assert not folder.finished
    folder.points.write_text("points\n")
    folder.write_json("frontier.json", {})
    before = files(tmp_path)
    assert RunFolder.create(tmp_path, CONFIG.replace("progress: true", "progress: false")).finished
    assert files(tmp_path) == before
    for change, words in {
        ("[0.5, 0.9]", "[0.9]"): r"budget.values = \[0.5, 0.9\] and not \[0.9\]",
        ("limits: {}", "limits: {kv: 0.3}"): "budget.limits",
        ("{name: grid}", "{name: step, ladder: [0.5]}"): "search.name = 'grid' and not 'step'",
        ("seed: 0", "seed: 0\nextra: 1"): "extra = None and not 1",
        ("seed: 0\n", ""): "seed = 0 and not None",
    }.items():
        with pytest.raises(RunError, match=f"holds a run already, with {words}"):
            RunFolder.create(tmp_path, CONFIG.replace(*change))
    (tmp_path / "config.yaml").write_text("seed: [")
    with pytest.raises(RunError, match="config.yaml cannot be read"):
        RunFolder.create(tmp_path, CONFIG)


def test_points_of_a_run_that_was_cut_short_are_measured_again(tmp_path):
    """They may end in half a line, and a second attempt would add the same ones."""
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.points.write_text('{"name": "a"}\n{"na')
    with pytest.raises(RunError, match="seed"):
        RunFolder.create(tmp_path, CONFIG.replace("seed: 0", "seed: 1"))
    assert folder.points.exists()
    assert not RunFolder.create(tmp_path, CONFIG).points.exists()
    assert (tmp_path / "config.yaml").read_text() == CONFIG


def test_writing_is_whole_or_not_at_all(tmp_path):
    folder = RunFolder.create(tmp_path, "")
    folder.write_json("frontier.json", {"b": 1, "a": 2})
    before = folder.frontier.read_text()
    assert before.index('"a"') < before.index('"b"')
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("frontier.json", {"a": float("nan")})
    assert folder.frontier.read_text() == before
    assert folder.read_frontier() == {"a": 2, "b": 1}
    assert not list(tmp_path.glob(".*"))


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        RunFolder.create(tmp_path / "file" / "x", "")
    with pytest.raises(RunError, match="cannot be written"):
        RunFolder(tmp_path / "gone").write("x", "")
    with pytest.raises(RunError, match="no frontier.json"):
        RunFolder(tmp_path).read_frontier()
    (tmp_path / "frontier.json").write_text('{"a": ')
    with pytest.raises(RunError, match="not valid JSON"):
        RunFolder(tmp_path).read_frontier()
