"""From the outcome of a search to what its report shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from vispco.cli.job import Outcome
from vispco.cli.result import summary
from vispco.config import PruningConfig
from vispco.data import Drawn, Sample
from vispco.engine import prune, seen_picture
from vispco.engine.placing import device_of
from vispco.evaluation import encode_samples
from vispco.frontier import Point, hypervolume
from vispco.report import (
    COST_NAMES,
    BudgetRow,
    Convergence,
    Ends,
    IndicatorRow,
    Overlay,
    ReportData,
    Scores,
    TextTable,
)
from vispco.runs import RunSettings
from vispco.runs.settings import SampledMethod

GALLERY = 8
"""Images with kept tokens overlaid."""


def report_data(settings: RunSettings, outcome: Outcome, run: str, versions: Mapping[str, str]) -> ReportData:
    """Tables, charts and a gallery of the verified result."""
    scores = Scores(
        {name: quality.score for name, quality in outcome.qualities.items()},
        [sample.slice for sample in outcome.samples],
        settings.seed,
    )
    shown = min(outcome.rows, key=lambda row: abs(row.point.costs[outcome.cost] - 0.5)).point
    facts = {
        "unpruned accuracy": _accuracy(scores.mean(outcome.unpruned.name)),
        "most frequent answer": _commonest(outcome.samples),
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
        overlays=_gallery(outcome, shown),
        overlaid=shown.name,
        scores=scores,
        convergence=convergence(settings, outcome),
    )


def _counts(drawn: Drawn) -> str:
    counts = drawn.record()
    shown = [f"{counts.pop('samples')} samples"]
    if counts["distinct"] < len(drawn.samples):
        shown.append(f"of {counts['distinct']} rows")
    shown += [f"{counts[name]} rows {name}" for name in ("broken", "pictureless") if counts[name]]
    return ", ".join(shown)


def comparison_data(runs: Mapping[str, Sequence[Point]], cost: str, table: TextTable) -> ReportData:
    """Several runs in one chart, each apart."""
    return ReportData(
        title=f"{len(runs)} runs: {COST_NAMES.get(cost, cost)}",
        cost=cost,
        facts=[(run, f"{len(points)} points, {points[0].samples} samples") for run, points in runs.items()],
        points=[point for points in runs.values() for point in points],
        runs=[run for run, points in runs.items() for _ in points],
        tables=[table],
    )


def convergence(settings: RunSettings, outcome: Outcome) -> Convergence | None:
    """How the search went: its gradient steps, or the hypervolume of its trials; None where it has neither.

    The hypervolume is that of cost and KL on the search split, with the reference (1, largest KL of all trials).
    """
    found = outcome.found[0]
    if found.steps:
        names = ("loss", "violation", "multiplier")
        return Convergence("gradient step", {name: [getattr(step, name) for step in found.steps] for name in names})
    worst = max((point.quality["kl"] for point in found.points), default=0.0)
    if not isinstance(settings.search, SampledMethod) or worst == 0.0:
        return None
    grown = [
        hypervolume(found.points[:count], cost=outcome.cost, quality="kl", reference=(1.0, worst))
        for count in range(1, len(found.points) + 1)
    ]
    return Convergence("trial", {"hypervolume of cost and KL": grown})


def _accuracy(ends: Ends) -> str:
    value, low, high = ends
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f} %{interval}"


def _commonest(samples: Sequence[Sample]) -> str:
    """What a model that always gives the same answer has to be held against."""
    [(answer, count)] = Counter(sample.answer for sample in samples).most_common(1)
    return f"{answer} ({100 * count / len(samples):.1f} % of samples)"


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


def _gallery(outcome: Outcome, point: Point) -> list[Overlay]:
    """Samples of different slices under the configuration of a point, answered by ``generate``."""
    config = PruningConfig(
        selector=point.selector, selector_params=point.selector_params, keep=point.keep, model=outcome.card
    )
    by_slice: dict[str, Sample] = {}
    for sample in outcome.samples:
        by_slice.setdefault(sample.slice, sample)
    chosen = list(by_slice.values())[:GALLERY]
    overlays = (_overlay(outcome.model, outcome.processor, config, sample) for sample in chosen)
    return [overlay for overlay in overlays if overlay is not None]


def _overlay(model: Any, processor: Any, config: PruningConfig, sample: Sample) -> Overlay | None:
    """What was kept and said; None where the visual tokens are no grid over the picture."""
    inputs = encode_samples(processor, [sample]).to(device_of(model))
    seen = seen_picture(model, processor, inputs)
    if seen is None:
        return None
    with torch.no_grad(), prune(model, config) as pruned:
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=16)
        kept = pruned.kept[: config.model.layers]
    said = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
    cuts = [layer for layer in range(len(kept)) if layer == 0 or not torch.equal(kept[layer], kept[layer - 1])]
    masks = {layer: kept[layer][0].cpu().numpy()[seen.tokens] for layer in cuts if not kept[layer][0].all()}
    rows, columns = seen.tokens.shape
    return Overlay(Image.fromarray(seen.pixels), (rows, columns), masks, sample.question, sample.answer, said)
