"""The setting of the cache of unpruned answers reaches both evaluators of a search."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vispco.cli import job
from vispco.cli.search import config_folder
from vispco.errors import ConfigError
from vispco.runs import NoTracker, RunSettings


class Stop(Exception):
    pass


def settings_with(*overrides):
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        plain = OmegaConf.to_container(compose("search", list(overrides)), resolve=True)
    plain.pop("experiment", None)
    return RunSettings.parse(plain)


def caches_of(monkeypatch, folder, *overrides):
    """The caches that a search's evaluators are given."""
    seen, evaluator = [], job.Evaluator

    def made(*args, cache, **options):
        seen.append(cache)
        if len(seen) == 2:
            raise Stop
        return evaluator(*args, cache=cache, **options)

    monkeypatch.setattr(job, "Evaluator", made)
    settings = settings_with(
        "data.search_samples=2", "data.report_samples=2", "search=step", "search.ladder=[0.1]", "progress=false",
        *overrides,
    )  # fmt: skip
    with pytest.raises(Stop):
        job.SearchJob(settings, NoTracker(), folder).run()
    return seen


def test_answers_are_kept_within_the_limit_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = caches_of(monkeypatch, tmp_path / "run")
    assert first is second
    assert first.limit == 4 * 2**30
    assert first.folder == tmp_path / "vispco" / "teacher"
    assert len(list(first.folder.iterdir())) == 1


def test_none_are_kept_where_they_may_take_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert caches_of(monkeypatch, tmp_path / "run", "data.cache_gib=0") == [None, None]
    assert not (tmp_path / "vispco" / "teacher").exists()


@pytest.mark.parametrize("value", ["-1", "inf", "much"])
def test_limits_that_cannot_be_are_refused(value):
    with pytest.raises(ConfigError, match=r"^data\.cache_gib = .*; override it with data\.cache_gib="):
        settings_with(f"data.cache_gib={value}")
