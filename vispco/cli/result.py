"""What a finished search leaves behind: configurations, indicators, the record of the run."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from vispco.cli.job import Outcome
from vispco.config import PruningConfig
from vispco.frontier import Point, epsilon, hypervolume, igd_plus, pareto_front, rank_correlation
from vispco.runs import Result, RunSettings


def configs(settings: RunSettings, outcome: Outcome, run: str, versions: Mapping[str, str]) -> list[PruningConfig]:
    """One configuration per budget; its KL is of the search split, its score of the report split."""
    main = outcome.found[0]
    provenance: dict[str, JsonValue] = {
        "run": run,
        "method": main.method,
        "seed": settings.seed,
        "search_split": settings.data.search_split,
        "report_split": settings.data.report_split,
        "cost": settings.cost.name,
        "limits": dict(settings.budget.limits),
        "basis": dict(outcome.unpruned.basis),
        "versions": dict(versions),
    }
    return [
        PruningConfig(
            selector=row.point.selector,
            selector_params=row.point.selector_params,
            keep=row.point.keep,
            model=outcome.card,
            budget=row.budget,
            costs=row.point.costs,
            quality={"kl": main.search_kl[row.budget], "score": row.point.quality["score"]},
            provenance=provenance,
        )
        for row in outcome.rows
    ]


def summary(outcome: Outcome) -> dict[str, float]:
    """Indicators of every method on the report split over the cost of the budgets, and what the search cost.

    Hypervolumes have the reference (cost 1, score 0); `above lowest` has the lowest score of a searched
    schedule as its reference instead, which is harder to match. IGD+ and epsilon are against the front of
    the exhaustive grid. `tau` of two costs is their rank correlation over all points.
    """
    cost = outcome.cost
    fronts = {found.method: _points_of(outcome, found.method) for found in outcome.found}
    floor = min(point.quality["score"] for point in outcome.points if point.method != "control")
    values: dict[str, float] = {"unpruned score": outcome.unpruned.quality["score"]}
    for method, points in fronts.items():
        values[f"{method} hypervolume"] = hypervolume(points, cost=cost)
        values[f"{method} hypervolume above lowest"] = hypervolume(points, cost=cost, reference=(1.0, floor))
    main, grid = fronts[outcome.found[0].method], fronts.get("grid")
    if grid and main is not grid:
        truth = pareto_front(grid, cost=cost)
        for name, reference in (("", (1.0, 0.0)), (" above lowest", (1.0, floor))):
            ours, theirs = (hypervolume(points, cost=cost, reference=reference) for points in (main, grid))
            values[f"hypervolume ratio to grid{name}"] = ours / theirs
        values["IGD+ to grid"] = igd_plus(main, truth, cost=cost)
        values["epsilon to grid"] = epsilon(main, truth, cost=cost)
    for found in outcome.found:
        values[f"{found.method} forwards"] = found.forwards
    if grid and main is not grid:
        spent = {found.method: found.forwards for found in outcome.found}
        values["cost ratio to grid"] = outcome.found[0].forwards / spent["grid"]
    for name in ("latency", "generation"):
        if name in outcome.unpruned.costs:
            values[f"tau of flops and {name}"] = rank_correlation(outcome.points, "flops", name)
    return values


def results(outcome: Outcome) -> list[Result]:
    """The main method, with the controls and all of the summary, and then its baselines, for a tracker.

    All have `hypervolume`, `hypervolume above lowest` and `forwards` (see :func:`summary`), `unpruned score`, the
    number of `verified points`, and `score@b`: the score of the configuration that was chosen for budget b on the
    search split, where there is one.
    """
    values = summary(outcome)
    by_name = {point.name: point for point in outcome.points}
    methods = {found.method: found for found in reversed(outcome.found)}  # of equal names the first
    main = outcome.found[0].method
    told = []
    for method in dict.fromkeys(found.method for found in outcome.found):
        own = {name: values[f"{method} {name}"] for name in ("hypervolume", "hypervolume above lowest", "forwards")}
        own["unpruned score"] = outcome.unpruned.quality["score"]
        own["verified points"] = sum(point.method == method for point in outcome.points)
        for budget, candidate in methods[method].best.items():
            own[f"score@{budget:g}"] = by_name[candidate.name].quality["score"]
        if method == main:
            others = methods.keys() - {main}
            points = [point for point in outcome.points if point.method not in others]
            told.append(Result(method, points, {**values, **own}))
        else:
            told.append(Result(method, _points_of(outcome, method), own))
    return told


def _points_of(outcome: Outcome, method: str) -> list[Point]:
    return [point for point in outcome.points if point.method in (method, "unpruned")]


def frontier_record(settings: RunSettings, outcome: Outcome, run: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """``frontier.json``: configurations, verified front, indicators and regrets."""
    front = pareto_front(_points_of(outcome, outcome.found[0].method), cost=outcome.cost)
    return {
        "schema_version": "1.0",
        "run": run,
        "method": outcome.found[0].method,
        "search_split": settings.data.search_split,
        "report_split": settings.data.report_split,
        "cost": outcome.cost,
        "limits": dict(settings.budget.limits),
        "data": outcome.loaded.record(),
        "configs": [config.model_dump(mode="json") for config in configs(settings, outcome, run, versions)],
        "front": [point.model_dump(mode="json") for point in front],
        "indicators": summary(outcome),
        "regret": {f"{row.budget:g}": row.regret._asdict() for row in outcome.rows if row.regret is not None},
        "versions": dict(versions),
    }
