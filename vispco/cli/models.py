"""``vispco models``: which models can be pruned, what is refused, and why."""

import argparse
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from vispco.engine import refusals
from vispco.engine.attention import REASONS, is_flash
from vispco.engine.families import REFUSED, REGISTRY


def refused() -> dict[str, list[str]]:
    """What the engine refuses, by the reason that it gives."""
    unmasked = [adapter.title for adapter in REGISTRY.values() if not any(map(is_flash, adapter.backends))]
    cases = {
        **REFUSED,
        "other models with cross-attention": REFUSED["mllama"],
        "other models with linear-attention layers": REFUSED["qwen3_5"],
        "flex_attention": REASONS["flex_attention"],
        f"flash attention with {', '.join(unmasked)} or sliding windows": REASONS["flash_attention_2"],
        "static and quantized caches": refusals.CACHES,
        "prefill_chunk_size": refusals.CHUNKS,
        "packed sequences": refusals.PACKED,
        "visual tokens after the first turn": refusals.LATER,
        "search by gradient in float16": refusals.WEIGHTS_FLOAT16,
        "search by gradient with bounded attention logits": refusals.WEIGHTS_SOFTCAP,
        "search by gradient under flash attention": refusals.WEIGHTS_FLASH,
    }
    by_reason: dict[str, list[str]] = {}
    for case, reason in cases.items():
        by_reason.setdefault(reason, []).append(case)
    return by_reason


def _families() -> Iterator[tuple[str, ...]]:
    for kind, adapter in REGISTRY.items():
        plain = [name for name in adapter.backends if not is_flash(name)]
        flash = [name.removeprefix("flash_attention_") for name in adapter.backends if is_flash(name)]
        backends = ", ".join([*plain, *(["flash " + "/".join(flash)] if flash else [])])
        visual = "images, video" if adapter.videos else "images"
        tower = "no" if adapter.tower is None else "yes"
        yield kind, adapter.title, adapter.architecture, visual, backends, tower, adapter.note


def models(arguments: Sequence[str]) -> None:
    """Print the supported families and what is refused."""
    argparse.ArgumentParser(prog="vispco models", description=__doc__).parse_args(arguments)
    table = Table(title="supported")
    headings = ("model type", "name", "class in transformers", "visual tokens of", "attention", "tower signals")
    for heading in (*headings, "what is special"):
        table.add_column(heading, no_wrap=heading != "what is special")
    for row in _families():
        table.add_row(*row)
    console = Console(width=max(180, Console().width))
    console.print(table)
    console.print("Refused:")
    for reason, cases in refused().items():
        console.print(f"- {', '.join(cases)}: {reason}", highlight=False, soft_wrap=True)
