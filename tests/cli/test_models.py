"""`vispco models` shows every family, and refuses in the words of the engine."""

from pathlib import Path

import pytest
import torch

from vispco import ModelCard, PruningConfig, prune
from vispco.cli import main
from vispco.cli.models import refused
from vispco.engine import Replay, observed_attention
from vispco.engine.families import REFUSED, REGISTRY, check_supported, describe
from vispco.errors import ModelError
from vispco.selectors import make_selector
from vispco.testing.models import MODELS, Sample

ROOT = Path(__file__).parents[2]


@pytest.fixture
def said(capsys, monkeypatch):
    """What the verb prints into a pipe, whatever the terminal."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["models"]) == 0
    return capsys.readouterr().out


def rows(said):
    """Cells of the table by model type; a cell may go over several lines."""
    table = {}
    for line in said.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if cells and cells[0]:
            kind, *table[cells[0]] = cells
        elif cells:
            table[kind] = [f"{before} {more}".strip() for before, more in zip(table[kind], cells[1:], strict=True)]
    return table


def test_every_family_is_shown_in_full(said):
    table = rows(said)
    assert list(table) == list(REGISTRY)
    for kind, adapter in REGISTRY.items():
        title, architecture, visual, _, tower, note = table[kind]
        assert tower == ("no" if adapter.tower is None else "yes")
        assert (title, architecture, note) == (adapter.title, adapter.architecture, adapter.note)
        assert visual == "images, video" if adapter.videos else "images"
    assert table["qwen2_vl"][2:4] == ["images, video", "sdpa, eager, flash 2/3/4"]
    assert table["qwen2_vl"][4] == "no"
    assert table["gemma3"][2:5] == ["images", "sdpa, eager", "yes"]


def test_a_pipe_gets_plain_text(said):
    assert "\x1b" not in said
    assert "…" not in said


def test_everything_refused_has_one_line(said):
    lines = [line for line in said.splitlines() if line.startswith("- ")]
    for reason, cases in refused().items():
        assert f"- {', '.join(cases)}: {reason}" in lines
    assert len(lines) == len(refused())
    assert {case for cases in refused().values() for case in cases} == {*REFUSED, *CALLS}


def test_arguments_are_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["models", "llava"])
    assert caught.value.code == 2
    assert "unrecognized arguments: llava" in capsys.readouterr().err


def test_the_readme_names_every_family():
    page = (ROOT / "README.md").read_text()
    assert [adapter.title for adapter in REGISTRY.values() if f"| {adapter.title} |" not in page] == []


# --- how to be refused -----------------------------------------------------------------------------------------------


def tiny(name, dtype=torch.float32, **text):
    """A model, with changes to its text configuration, and an image for it."""
    model = MODELS[name].build(dtype)
    for field, value in text.items():
        setattr(model.get_decoder().config, field, value)
    return model, MODELS[name].inputs([Sample(2, 1, 5, seed=1)], dtype=dtype)


def pruned(model):
    layers = len(describe(model).layers)
    card = ModelCard(type=model.config.model_type, layers=layers)
    return prune(model, PruningConfig(selector="random", keep=(0.5,) * layers, model=card))


def generate(name, options=None, **text):
    model, inputs = tiny(name, **text)
    with pruned(model):
        model.generate(**inputs, max_new_tokens=2, **(options or {}))


def pack():
    model, inputs = tiny("llava")
    with pruned(model):
        model(**inputs, cu_seq_lens_q=torch.tensor([0, 3, inputs["input_ids"].shape[1]]))


def show_later():
    model, inputs = tiny("llava")
    with pruned(model):
        first = model(**inputs, use_cache=True)
        mask = inputs["attention_mask"].repeat(1, 2)
        model(**{**inputs, "attention_mask": mask}, past_key_values=first.past_key_values)


def weigh(name, dtype=torch.float32, flash=False):
    """One step of a search by gradient; no kernel is needed to be refused."""
    model, inputs = tiny(name, dtype)
    replay = Replay(model, make_selector("random"))
    with observed_attention(replay.family):
        captured = replay.capture(inputs)
        if flash:
            model.get_decoder().config._attn_implementation = "vispco_flash_attention_2"
        replay.relaxed(captured, torch.full((1, 4), 0.5), captured.query[:, None], temperature=0.1)


CALLS = {
    "other models with cross-attention": lambda: check_supported("mllama"),
    "other models with linear-attention layers": lambda: generate("llava", layer_types=["linear_attention"] * 4),
    "flex_attention": lambda: generate("llava", _attn_implementation="flex_attention"),
    "flash attention with Gemma 3, PaliGemma 1 and 2 or sliding windows": lambda: generate(
        "gemma3", _attn_implementation="flash_attention_2"
    ),
    "static and quantized caches": lambda: generate("llava", {"cache_implementation": "static"}),
    "prefill_chunk_size": lambda: generate("llava", {"prefill_chunk_size": 4}),
    "packed sequences": pack,
    "visual tokens after the first turn": show_later,
    "search by gradient in float16": lambda: weigh("llava", torch.float16),
    "search by gradient with bounded attention logits": lambda: weigh("paligemma2"),
    "search by gradient under flash attention": lambda: weigh("llava", flash=True),
}
"""Every case of the list, done."""

ADVICE = {
    "other models with linear-attention layers": "equal masking them",
}
"""What list and error share where the error, which has values to name, is worded differently."""


@pytest.mark.parametrize("case", CALLS)
def test_the_engine_refuses_in_these_words(case):
    with pytest.raises(ModelError) as caught:
        CALLS[case]()
    reason = next(reason for reason, cases in refused().items() if case in cases)
    shared = ADVICE.get(case, reason)
    assert shared in reason
    assert shared in str(caught.value)
