"""A device that is not there, memory that runs out, training that diverges: one line, exit code 2, nothing lost."""

from importlib import import_module

import pytest
import torch
from refusing import one_line
from short import short_of_memory

from vispco.cli import environment, main
from vispco.engine import load_checkpoint

TINY = [
    "data.search_samples=6",
    "data.report_samples=4",
    "data.cache_gib=0.0",
    "search.steps=2",
    "search.samples=6",
    "search.batch=4",
    "search.anchors=2",
    "search.start_levels=3",
    "search.probe_samples=2",
    "search.select_samples=2",
    "budget.values=[0.6]",
    "tracker=none",
    "progress=false",
]
BEST = """{
    "schema_version": "1.0", "selector": "fastv", "keep": [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    "model": {"type": "llava", "layers": 8}
}"""
GONE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has none.")


@pytest.fixture
def best(tmp_path):
    path = tmp_path / "best.json"
    path.write_text(BEST)
    return str(path)


@pytest.fixture
def verbs(tmp_path, best):
    """Words of every verb that opens a model."""
    return {
        "search": ["search", *TINY, f"hydra.run.dir={tmp_path / 'run'}"],
        "eval": ["eval", best, "data.report_samples=4", "data.batch_size=4", "data.max_new_tokens=2"],
        "bench": ["bench", best, "--pairs", "2", "--new-tokens", "1", "--batch", "4"],
        "profile": ["profile", "-o", str(tmp_path / "latency.json"), *TINY[:3], "cost.new_tokens=2"],
    }


@pytest.fixture
def micro(monkeypatch, capsys):
    """The model that every verb opens."""
    model, processor = load_checkpoint("micro-llava")
    capsys.readouterr()  # a bar of transformers
    for verb in ("bench", "eval", "job", "profile"):
        monkeypatch.setattr(import_module(f"vispco.cli.{verb}"), "open_model", lambda settings: (model, processor))
    return model


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
@pytest.mark.parametrize("verb", ["search", "eval", "bench", "profile"])
def test_a_device_that_is_not_there(verbs, capsys, verb, device):
    assert main([*verbs[verb], f"model.device_map={device}"]) == 2
    assert one_line(capsys) == f"vispco: model.device_map={device}: 0 CUDA devices are here; choose cpu or another one"


@pytest.mark.parametrize("verb", ["search", "eval", "bench", "profile"])
def test_a_dtype_that_is_not_there(verbs, capsys, verb):
    assert main([*verbs[verb], "model.dtype=int8"]) == 2
    line = one_line(capsys)
    assert line == "vispco: dtype 'int8' is unknown; choose one of float32, bfloat16, float16"


def test_a_dtype_in_which_nothing_can_be_learned(verbs, capsys):
    assert main([*verbs["search"], "model.dtype=float16"]) == 2
    assert "float16" in one_line(capsys)


def test_a_model_that_does_not_fit(verbs, capsys, monkeypatch):
    def load(*arguments, **options):
        raise GONE

    monkeypatch.setattr("vispco.engine.checkpoint.AutoModelForImageTextToText.from_pretrained", load)
    assert main(verbs["eval"]) == 2
    assert one_line(capsys) == (
        "vispco: micro-llava: out of memory (tried to allocate 2.50 GiB) while it was opened; choose "
        "model.dtype=bfloat16, a smaller model or another model.device_map"
    )


def test_a_search_says_which_batch_fits_and_that_one_does(verbs, capsys, micro, tmp_path):
    with short_of_memory(micro.get_decoder().layers[0], 3):
        assert main([*verbs["search"], "data.batch_size=6"]) == 2
        line = one_line(capsys)
        assert line.endswith("with 6 samples at once, which data.batch_size sets; data.batch_size=3 fits")
        assert not {path.name for path in (tmp_path / "run").iterdir()} & {"points.jsonl", "frontier.json"}
        assert main([*verbs["search"], "data.batch_size=3", f"hydra.run.dir={tmp_path / 'other'}"]) == 0


@pytest.mark.parametrize(
    ("verb", "setting"), [("eval", "data.batch_size"), ("bench", "--batch"), ("profile", "cost.batch")]
)
def test_other_verbs_say_which_batch_fits(verbs, capsys, micro, tmp_path, verb, setting):
    words = [*verbs[verb], "cost.batch=4"] if verb == "profile" else verbs[verb]
    with short_of_memory(micro.get_decoder().layers[0], 2):
        assert main(words) == 2
    assert one_line(capsys) == (
        f"vispco: out of memory (tried to allocate 2.50 GiB) with 4 samples at once, which {setting} sets; "
        f"{setting}=2 fits"
    )
    assert not (tmp_path / "latency.json").exists()


@pytest.mark.parametrize("error", [GONE, MemoryError()])
def test_memory_that_runs_out_elsewhere(verbs, capsys, monkeypatch, error):
    def load(*arguments, **options):
        raise error

    monkeypatch.setattr(import_module("vispco.cli.eval"), "load_report", load)
    assert main(verbs["eval"]) == 2
    line = one_line(capsys)
    assert line.startswith("vispco: out of memory")
    assert "lower data.batch_size, search.batch or the number of samples" in line


def test_a_search_that_diverges_keeps_what_it_has(verbs, capsys, monkeypatch, tmp_path):
    real = torch.optim.Adam.step

    def step(self):
        real(self)
        if self.state and next(iter(self.state.values()))["step"] == 2:
            self.param_groups[0]["params"][0].data.fill_(torch.nan)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        assert main(verbs["search"]) == 2
    line = one_line(capsys)
    assert line.startswith("vispco: gradient step 1: NaN or infinity in the parameters of budget 0.6"), line
    assert line.endswith("lower search.lr, or compute in model.dtype=float32")
    assert [path.name for path in (run / "state" / "snapshots").iterdir()] == ["learned-00000001.safetensors"]
    assert not (run / "points.jsonl").exists()
    assert main(verbs["search"]) == 0
    assert b"NaN" not in (run / "points.jsonl").read_bytes()


def test_a_step_that_no_number_holds_is_refused_before_anything(verbs, capsys, tmp_path):
    assert main([*verbs["search"], "search.lr=1e39"]) == 2
    assert one_line(capsys).startswith("vispco: search.lr = 1e+39: ")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_error_of_ours_stays_one(verbs, monkeypatch):
    def load(*arguments, **options):
        raise FileNotFoundError(2, "No such file or directory", "x")

    monkeypatch.setattr(import_module("vispco.cli.eval"), "load_report", load)
    with pytest.raises(FileNotFoundError):
        main(verbs["eval"])
    assert environment.refusal(RuntimeError("shapes differ")) is None
