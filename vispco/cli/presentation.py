"""From the outcome of a search to what its report shows."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from vispco.cli.job import Outcome
from vispco.cli.result import summary
from vispco.config import PruningConfig
from vispco.data import Drawn, Sample
from vispco.engine import prune
from vispco.engine.placing import device_of
from vispco.evaluation import prompt_text
from vispco.report import COST_NAMES, BudgetRow, IndicatorRow, Overlay, ReportData
from vispco.runs import RunSettings

GALLERY = 8
"""Images with kept tokens overlaid."""


def report_data(settings: RunSettings, outcome: Outcome, run: str, versions: Mapping[str, str]) -> ReportData:
    """Tables, figures and a gallery of the verified result."""
    facts = {
        "run": run,
        "model": f"{outcome.card.name} ({outcome.card.type}, {outcome.card.layers} layers)",
        "model fingerprint": outcome.card.fingerprint,
        "selector": " + ".join(settings.selectors),
        "search": f"{outcome.found[0].method}, seed {settings.seed}",
        "data": settings.data.path,
        "searched on": f"{_counts(outcome.loaded.searching)}, {settings.data.search_split} split",
        "reported on": f"{_counts(outcome.loaded.reporting)}, {settings.data.report_split} split",
        "backend": f"{settings.model.attention}, {settings.model.dtype}",
        **versions,
    }
    return ReportData(
        title=f"{outcome.card.name}: {' + '.join(settings.selectors)} under a budget of {COST_NAMES[outcome.cost]}",
        cost=outcome.cost,
        facts=list(facts.items()),
        points=outcome.points,
        budgets=[BudgetRow(row.budget, row.point, row.rival, row.regret) for row in outcome.rows],
        indicators=_indicators(outcome),
        overlays=_gallery(settings, outcome),
    )


def _counts(drawn: Drawn) -> str:
    counts = drawn.record()
    shown = [f"{counts.pop('samples')} samples"]
    if counts["distinct"] < len(drawn.samples):
        shown.append(f"of {counts['distinct']} rows")
    shown += [f"{counts[name]} rows {name}" for name in ("broken", "pictureless") if counts[name]]
    return ", ".join(shown)


def _indicators(outcome: Outcome) -> list[IndicatorRow]:
    values, method = summary(outcome), outcome.found[0].method
    both = (
        ("hypervolume", "higher is better; reference cost 1, score 0"),
        ("hypervolume above lowest", "higher is better; reference cost 1, lowest score of a searched schedule"),
        ("forwards", "model FLOPs spent, in forwards of the unpruned model over one sample"),
    )
    rows = [
        IndicatorRow(name, note, values[f"{method} {name}"], values.get(f"grid {name}") if method != "grid" else None)
        for name, note in both
    ]
    rows += [
        IndicatorRow(name, "distance to the exhaustive front, lower is better", values[name])
        for name in ("IGD+ to grid", "epsilon to grid")
        if name in values
    ]
    return rows


def _gallery(settings: RunSettings, outcome: Outcome) -> list[Overlay]:
    """Samples of different slices under the configuration nearest to half of the cost, answered by ``generate``."""
    row = min(outcome.rows, key=lambda row: abs(row.point.costs[outcome.cost] - 0.5))
    config = PruningConfig(
        selector=row.point.selector,
        selector_params=row.point.selector_params,
        keep=row.point.keep,
        model=outcome.card,
    )
    by_slice: dict[str, Sample] = {}
    for sample in outcome.samples:
        by_slice.setdefault(sample.slice, sample)
    overlays = []
    for sample in list(by_slice.values())[:GALLERY]:
        overlay = _overlay(outcome.model, outcome.processor, config, sample)
        if overlay is not None:
            overlays.append(overlay)
    return overlays


def _overlay(model: Any, processor: Any, config: PruningConfig, sample: Sample) -> Overlay | None:
    """What was kept and said; None where the visual tokens are no square grid over the image."""
    inputs = processor(text=prompt_text(processor, sample.question), images=sample.image, return_tensors="pt")
    inputs = inputs.to(device_of(model))
    with torch.no_grad(), prune(model, config) as pruned:
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=16)
        kept = pruned.kept[: config.model.layers]
    side = math.isqrt(kept[0].shape[1])
    if side * side != kept[0].shape[1]:
        return None
    said = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
    cuts = [layer for layer in range(1, len(kept)) if not torch.equal(kept[layer], kept[layer - 1])]
    masks = [(f"from layer {layer}", kept[layer][0].view(side, side).cpu().numpy()) for layer in cuts]
    return Overlay(sample.image, (side, side), masks, sample.question, sample.answer, said)
