"""What docs/security.md promises and no room's own tests prove."""

import ast
import json
import re
from pathlib import Path

import pytest
from tables import picture, write_tsv

import vispco
from vispco.cli import main
from vispco.cli.overrides import parse_overrides
from vispco.data import Broken
from vispco.data.readers import REGISTRY

PACKAGE = Path(vispco.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle", "xml"}
"""Modules that run code out of what they read, or go wherever it says."""
CALLS = {
    "torch.load", "np.load", "numpy.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "eval",
    "exec", "compile", "__import__", "os.system", "os.popen", "pd.read_pickle", "torch.hub.load",
}  # fmt: skip


def dangers(source):
    """Everything in a module that could run code of strangers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in CALLS else []
            found += [f"{name}({word.arg})" for word in node.keywords if word.arg in ("allow_pickle", "shell")]
        found += [f"trust_remote_code={value}" for value in trusted(node) if value != "False"]
    return found


def trusted(node):
    """What ``trust_remote_code`` is set to, as an argument or in a mapping of arguments."""
    if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
        yield ast.unparse(node.value)
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                yield ast.unparse(value)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_runs_what_it_reads(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import dill as d", "torch.load(path)", "np.load(f)",
        "numpy.load(f, allow_pickle=True)", "reader(f, allow_pickle=1)", "yaml.load(text)", "eval(text)", "exec(text)",
        "open_model(x, trust_remote_code=True)", "how = {'trust_remote_code': allowed}", "run(words, shell=True)",
    ],
)  # fmt: skip
def test_what_is_dangerous_is_seen(line):
    assert len(dangers(f"def f():\n    {line}")) >= 1


def test_checkpoints_are_opened_without_their_code():
    """Every call that opens something of a checkpoint says so."""
    openers = [path for path in SOURCES if "from_pretrained(" in path.read_text(encoding="utf-8")]
    settings = [value for path in openers for node in ast.walk(ast.parse(path.read_text())) for value in trusted(node)]
    assert {path.name for path in openers} == {"checkpoint.py", "processing.py"}
    assert settings == ["False", "False"]


# --- names in files --------------------------------------------------------------------------------------------------


def as_tsv(folder, names):
    return write_tsv(
        folder / "t.tsv", *((name, "q", "a") for name in names), header=("image_path", "question", "answer")
    )


def as_jsonl(folder, names):
    rows = [{"image": {"path": name}, "question": "q", "answer": "a"} for name in names]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "t.jsonl"


def as_llava(folder, names):
    talk = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (folder / "t.json").write_text(json.dumps([{"image": name, "conversations": talk} for name in names]))
    return folder / "t.json"


def as_datasets(folder, names):
    datasets = pytest.importorskip("datasets")
    table = {"image_path": names, "question": ["q"] * len(names), "answer": ["a"] * len(names)}
    datasets.Dataset.from_dict(table).to_parquet(str(folder / "t.parquet"))
    return folder / "t.parquet"


WRITERS = {"tsv": as_tsv, "jsonl": as_jsonl, "llava": as_llava, "datasets": as_datasets}


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("images", [False, True], ids=["beside the table", "data.images"])
def test_pictures_are_only_looked_for_below_the_folder(name, images, tmp_path):
    """A picture lies outside, and every way to it is a broken row; those inside are found."""
    home, secret = tmp_path / "home", tmp_path / "secret.png"
    home.mkdir()
    root = home / "images" if images else home
    (root / "deep").mkdir(parents=True)
    for place in (secret, root / "in.png", root / "deep" / "in.png"):
        place.write_bytes(picture())
    (root / "link.png").symlink_to(secret)
    (root / "out").symlink_to(tmp_path)
    (root / "inner.png").symlink_to(root / "in.png")
    inside = ["in.png", "deep/in.png", "deep/../in.png", "inner.png", str(root / "in.png")]
    up = "../" * (2 if images else 1)
    outside = [f"{up}secret.png", str(secret), "link.png", "out/secret.png", f"deep/{up}../secret.png", "/etc/a.png"]
    absent = [
        secret.as_uri(),
        "~/in.png",
        "$HOME/in.png",
        "http://localhost/in.png",
        "in.png\0.txt",
        f"{'x' * 300}.png",
    ]
    names = [*inside, *outside, *absent]
    found = list(REGISTRY[name](WRITERS[name](home, names), root if images else None))
    assert len(found) == len(names)
    for path, row in zip(names, found, strict=True):
        assert isinstance(row, Broken) == (path not in inside), path
        if path in outside:
            assert "is outside of" in row.reason, path


# --- what is not for files -------------------------------------------------------------------------------------------

SECRET = "hush-hush"
PLACES = ["search.storage='{}'", "baseline.methods=[{{name:random,trials:1,samples:1,tune:[],storage:'{}'}}]"]
URLS = [f"postgresql+psycopg://me:{SECRET}@host/x", f"mysql://host/x?user=me&password={SECRET}"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("place", PLACES)
def test_a_password_in_a_url_is_refused_before_anything_is_written(url, place, tmp_path, capsys):
    search = ["search", "search=tpe", "tracker=none", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main([*search, place.format(url)]) == 2
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert re.search(r"storage = '[^']*\*\*\*[^']*' has a password, .*; leave it out of the URL", said.err)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text(errors="replace")]
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_url_without_a_password_is_taken():
    for url in ("postgresql+psycopg://me@host/x", "sqlite:///a.db", "/shared/study.log"):
        assert parse_overrides(["search=tpe", f"search.storage='{url}'"]).search.storage == url
