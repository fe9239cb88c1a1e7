"""The report split has no say in what is chosen: poisoned, it changes what is reported and nothing else."""

import base64
import io
import json
from importlib import import_module

import pytest
from PIL import Image

import vispco
from vispco.cli import main
from vispco.embedded import shapes
from vispco.engine import load_checkpoint

TINY = [
    "data=table",
    "data.scorer=answer_tokens",
    "data.prompt='{question}'",
    "data.split_by=column",
    "data.search_samples=8",
    "data.report_samples=8",
    "data.cache_gib=0.0",
    "budget.values=[0.5,0.8]",
    "tracker=none",
    "progress=false",
]
LEARNED = [
    "search.steps=2", "search.samples=8", "search.batch=2", "search.anchors=2", "search.start_levels=3",
    "search.probe_samples=4", "search.select_samples=4", "search.polish_rounds=1", "search.polish_samples=4",
    "baseline.methods=[{name: step, ladder: [0.3, 0.05]}]",
]  # fmt: skip
METHODS = {
    "learned": LEARNED,
    "tpe": ["search=tpe", "search.trials=6", "search.samples=8", "search.storage=null"],
    "sensitivity": ["search=sensitivity", "search.samples=8"],
    "fitprune": ["search=fitprune", "selector=fitprune", "search.samples=4"],
}


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture
def tables(tmp_path):
    """Two tables whose validation rows are the same, and whose test rows have other pictures and answers."""
    parts = {}
    for split in ("validation", "test"):
        shapes.write_tsv(tmp_path / "part.tsv", split, 8)
        head, *rows = (tmp_path / "part.tsv").read_text().splitlines()
        parts[split] = [row.split("\t") for row in rows]
    names = head.split("\t")
    for row in parts["test"]:
        row[names.index("index")] += "000"
    stream = io.BytesIO()
    Image.new("RGB", (160, 160), "white").save(stream, "PNG")
    poisoned = [list(row) for row in parts["test"]]
    for row, other in zip(poisoned, [*parts["test"][1:], parts["test"][0]], strict=True):
        row[names.index("answer")] = other[names.index("answer")]
        row[names.index("image")] = base64.b64encode(stream.getvalue()).decode()
    found = []
    for name, test in (("plain", parts["test"]), ("poisoned", poisoned)):
        lines = [head, *("\t".join(row) for row in [*parts["validation"], *test])]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        found.append(tmp_path / f"{name}.tsv")
    return found


@pytest.mark.parametrize("method", METHODS)
def test_what_is_chosen_depends_on_the_search_split_alone(tables, tmp_path, monkeypatch, micro, method):
    monkeypatch.setattr(import_module("vispco.cli.job"), "open_model", lambda settings: micro)
    chosen, reported = [], []
    for table in tables:
        run = tmp_path / table.stem
        assert main(["search", *METHODS[method], *TINY, f"data.path={table}", f"hydra.run.dir={run}"]) == 0
        configs = json.loads((run / "frontier.json").read_text())["configs"]
        points = vispco.read_points(run)
        predictor = run / "predictor.safetensors"
        exported = tmp_path / "best.json"
        assert main(["export", str(run), "--budget", "0.65", "-o", str(exported)]) == 0
        chosen.append(
            {
                "keep": [(config["keep"], config["selector"], config["selector_params"]) for config in configs],
                "kl": [config["quality"]["kl"] for config in configs],
                "points": [point for point in points if point.split == "validation"],
                "verified": [(point.name, point.keep) for point in points if point.split == "test"],
                "predictor": weights(predictor) if predictor.exists() else None,
                "exported": json.loads(exported.read_text())["keep"],
            }
        )
        reported.append([point.quality for point in points if point.split == "test"])
    for name in chosen[0]:
        assert chosen[0][name] == chosen[1][name], name
    assert reported[0] != reported[1], "the poison has no effect, so the test shows nothing"


def weights(path):
    """The bytes of a predictor's tensors: the file also holds the name of its run."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]
