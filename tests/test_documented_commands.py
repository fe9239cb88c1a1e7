"""Every command in the documents works: it is run in small, or stands in a table that says why not and what is done.

Commands of a page are run from top to bottom, as a reader would, in a folder that holds what pages take for granted: a
finished ``runs/demo``, ``best.json`` and ``latency.json``. Figures and reports are left out; other tests look at them.
"""

import argparse
import re
import shutil
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from documented import ROOT, Command, commands, documents
from hydra.core.override_parser.overrides_parser import OverridesParser
from timing import in_proportion

from vispco.cli import VERBS, main
from vispco.cli.overrides import parse_overrides
from vispco.embedded import locate, shapes
from vispco.profiling.calibration import calibrate_for


class Exempt(NamedTuple):
    """Commands that are not run, why, and the file of the tests that run what is behind them."""

    pattern: str
    reason: str
    covered: str


EXEMPT = [
    Exempt(r"hf download ", "it needs a network", "engine/test_locating.py"),
    Exempt(r"(srun )?torchrun ", "several processes, which take minutes", "cli/test_torchrun.py"),
    Exempt(r".*hydra/launcher=slurm", "it needs a cluster", "cli/test_sweeps.py"),
    Exempt(r"python -m lmms_eval ", "a harness that is not installed", "integrations/test_lmms_eval.py"),
    Exempt(r"pip (un)?install .*(lmms-eval|torchvision)", "another environment", "integrations/test_lmms_eval.py"),
    Exempt(r"vispco search --multirun .*seed=0,1", "many searches; one page has two of them", "cli/test_program.py"),
    Exempt(r"vispco search tracker.mode=online", "needs an account and a network", "runs/test_tracker.py"),
    Exempt(r"vispco compare .*--wandb online", "needs an account and a network", "cli/test_tracking.py"),
    Exempt(r"wandb sync ", "needs an account and a network", "cli/test_tracking.py"),
    Exempt(r"vispco search data=textvqa ", "a file of the benchmark's", "cli/test_benchmarks.py"),
    Exempt(r"vispco search .*search.storage=postgresql", "it needs a database", "search/test_studies.py"),
    Exempt(r"python tests/guided_fuzzing.py ", "atheris is no dependency", "test_fuzz.py"),
    Exempt(r"optuna-dashboard ", "a server, which does not end", "search/test_dashboard.py"),
]
"""Overrides in them are composed and validated all the same."""

SMALL = ["data.search_samples=8", "data.report_samples=8", "data.batch_size=8"]
LEARNED = [
    "search.samples=8", "search.steps=1", "search.batch=2", "search.anchors=1", "search.probe_samples=2",
    "search.start_levels=2", "search.select_samples=2",
]  # fmt: skip
METHODS = {
    "learned": LEARNED,
    "grid": ["search.ladder=[1.0,0.2,0.03]"],
    "step": ["search.ladder=[0.5,0.03]"],
    "sensitivity": ["search.samples=8", "search.ladder=[0.5,0.03]"],
    **{name: ["search.samples=8", "search.trials=6"] for name in ("random", "tpe", "nsga2")},
    **{name: ["search.samples=8"] for name in ("fitprune", "autoprune", "vtw")},
}
"""What makes a search small, by its method."""

PLACES = {
    "/my/": "my/",
    r"my\.tsv$": "my/table.tsv",
    "/shared/": "my/shared/",
    "RUN$": "runs/demo",
    "FILE$": "best.json",
}
"""Beginnings of words, or whole ones, that stand for a place of the reader's, and what they are in the tests."""

SETTING = re.compile(r"[+~]{0,2}([\w./@]+)=")


def keys_of(words):
    """Settings that a command gives, by name."""
    return {found[1]: word.split("=", 1)[1] for word in words if (found := SETTING.match(word))}


def in_small(words, number):
    """The words of a vispco command, and those that make it small."""
    keys = keys_of(words)
    if words[1] == "search":
        usual = {"budget.values": "[0.5,0.9]", "tracker": "none", "baseline": "none", "progress": "false"}
        usual["hydra.sweep.dir" if "--multirun" in words else "hydra.run.dir"] = f"runs/documented-{number}"
        more = [f"{key}={value}" for key, value in usual.items() if not any(name.startswith(key) for name in keys)]
        given = sorted(words[2:], key=lambda word: bool(SETTING.match(word)))  # argparse wants options first
        return ["search", *given, *more, *SMALL, *METHODS[keys.get("search", "learned")]]
    quiet = [] if "--wandb" in words else ["--wandb=none"]
    sizes = {"compare": quiet, "eval": SMALL, "profile": SMALL, "bench": ["--pairs=1", "--new-tokens=2", *SMALL]}
    return [*words[1:], *sizes.get(words[1], [])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with what the documents take for granted."""
    where = tmp_path_factory.mktemp("work")
    model, table, shared = (where / "my" / name for name in ("model", "table.tsv", "shared"))
    shutil.copytree(locate("micro-llava"), model)
    shared.mkdir()
    for split in ("validation", "test"):
        shapes.write_tsv(shared / split, split, 12)
    table.write_text((shared / "validation").read_text() + (shared / "test").read_text().split("\n", 1)[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        for name in ("write_report", "plot_frontiers", "plot_schedules", "plot_costs"):
            patch.setattr(import_module("vispco.cli.search"), name, lambda *_, **__: None)
        patch.setattr(import_module("vispco.cli.profile"), "calibrate_for", times)
        demo = ("vispco", "search", "experiment=demo", "baseline=none", "budget.values=[0.3,0.5]")
        assert main(in_small((*demo, "hydra.run.dir=runs/demo"), 0)) == 0
        for name in ("a", "b", "c"):
            shutil.copytree("runs/demo", f"runs/{name}")
        assert main(["export", "runs/demo", "--budget", "0.5", "-o", "best.json"]) == 0
        assert main(["profile", *SMALL, "budget.values=[0.8]"]) == 0
        yield where


TABLES = {}


def times(model, processor, samples, selectors, **options):
    """A quick calibration, made proportional to tokens: budgets of time can be met on any machine. Once per request."""
    request = repr((model.config.name_or_path, [sample.question for sample in samples], selectors, options))
    if request not in TABLES:
        quick = {**options, "repeats": 1, "drift": 10.0}
        TABLES[request] = in_proportion(calibrate_for(model, processor, samples, selectors, **quick))
    return TABLES[request]


def placed(word, folder):
    """A word with what its placeholder stands for in this folder."""
    for place, here in PLACES.items():
        word = re.sub(rf"(?<![\w./]){place}", f"{folder}/{here}", word)
    return word


def run_vispco(command, folder, done, capsys):
    words = tuple(placed(word, folder) for word in command.words)
    assert words[1] in VERBS, f"{command}: there is no such verb"
    named = len(words) == 2 and words[1] in ("bench", "compare", "eval", "export", "reproduce")  # within a sentence
    if named or words in done:
        return
    capsys.readouterr()
    code = main(in_small(words, len(done)))
    assert code == 0, f"{command}: exit code {code}: {capsys.readouterr().err.strip()}"
    done.add(words)


def compose(command):
    """What Hydra and the settings say to the overrides of a command; of a sweep every value once."""
    if not keys_of(command.words):
        return
    parsed = OverridesParser.create().parse_overrides([word for word in command.words if SETTING.match(word)])
    choices = [
        list(each.sweep_string_iterator()) if each.is_sweep_override() else [each.get_value_element_as_str()]
        for each in parsed
    ]
    for turn in range(max(map(len, choices))):
        words = [
            f"{each.get_key_element()}={values[turn % len(values)]}"
            for each, values in zip(parsed, choices, strict=True)
        ]
        try:
            parse_overrides(words)
        except Exception as error:
            pytest.fail(f"{command}: {error}")


def check_module(command, monkeypatch):
    """The module is there, and its own parser takes the arguments; nothing behind it is run."""
    first, *arguments = command.words[1:]
    name = arguments.pop(0) if first == "-m" else first.removesuffix(".py").replace("/", ".")
    monkeypatch.syspath_prepend(str(ROOT))
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        pytest.fail(f"{command}: {error}")
    source = Path(module.__file__).read_text()
    assert '__name__ == "__main__"' in source, f"{command}: this is no program"
    if "ArgumentParser(" not in source:
        assert not arguments, f"{command}: takes no arguments"
        return

    class Parsed(Exception):
        """Arguments were fine."""

    def stop(parser, given=None, namespace=None):
        parse(parser, arguments, namespace)
        raise Parsed

    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    try:
        with pytest.raises(Parsed):
            module.main()
    except SystemExit:
        pytest.fail(f"{command}: its parser refuses the arguments")


def check_target(command, _):
    """Make knows the target, and what it would run; the other targets set up an environment of their own first."""
    dry = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, f"{command}: {dry.stderr}"
    for line in re.findall(r"bin/(vispco .*)", dry.stdout):
        compose(Command(command.page, command.line, tuple(line.split())))


def check_extras(command, _):
    """What is installed is this package with extras that it has."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"vispco\[(.*?)\]", " ".join(command.words)):
        assert set(extras.split(",")) <= set(known), f"{command}: there is no extra {extras!r}"


CHECKS = {"python": check_module, "make": check_target, "pip": check_extras}
"""Studies of hours, environments and installs: their arguments are held against what would take them."""


@pytest.fixture(scope="module")
def done():
    """Commands that have been run."""
    return set()


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands(page, request, capsys, monkeypatch):
    for command in commands(page):
        if any(re.match(exempt.pattern, " ".join(command.words)) for exempt in EXEMPT):
            compose(command)
        elif command.words[0] == "vispco":
            run_vispco(command, request.getfixturevalue("folder"), request.getfixturevalue("done"), capsys)
        elif (program := Path(command.words[0]).name) in CHECKS:
            with monkeypatch.context() as patch:
                CHECKS[program](command, patch)
        else:
            pytest.fail(f"{command}: is neither run nor in the table of what is not")


def test_the_table_of_exemptions_is_true():
    everything = [" ".join(command.words) for page in documents() for command in commands(page)]
    for exempt in EXEMPT:
        assert any(re.match(exempt.pattern, words) for words in everything), f"{exempt.pattern}: matches nothing"
        assert (ROOT / "tests" / exempt.covered).exists(), exempt.covered


PAGE = """Say `vispco export RUN
--budget 0.5 -o a.json`, not `vispco` or `vispco export RUN ...`.
```bash
$ vispco search seed=1 \\
    'budget.limits={kv: 0.5}'  # why
OMP_NUM_THREADS=1 python -m a.b --c 'd e'
for i in 1 2; do
  vispco search hydra.run.dir=runs/$i &
done
# vispco nothing
make demo && wandb sync x > log
```
```python
vispco = 1
```
  - item

    ```
    torchrun -m vispco search
    ```
"""


def test_all_ways_to_write_a_command_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert [(command.line, command.words) for command in commands(page)] == [
        (1, ("vispco", "export", "RUN", "--budget", "0.5", "-o", "a.json")),
        (4, ("vispco", "search", "seed=1", "budget.limits={kv: 0.5}")),
        (6, ("python", "-m", "a.b", "--c", "d e")),
        (8, ("vispco", "search", "hydra.run.dir=runs/1")),
        (11, ("make", "demo")),
        (11, ("wandb", "sync", "x")),
        (19, ("torchrun", "-m", "vispco", "search")),
    ]
