"""What the studies of searches share: searching with samples of a seed, and measuring on others."""

from collections.abc import Mapping, Sequence

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import Evaluator, Ledger

Schedule = tuple[float, ...]
Chosen = dict[float, Schedule]


def open_splits(model: str, selector: str, seed: int, search_samples: int, report_samples: int):
    """Evaluators of the validation and of the test split; the ledger of the first is charged with its answers."""
    opened = load_checkpoint(model)
    searching = load_samples("shapes", "validation", search_samples, seed=seed)
    reporting = load_samples("shapes", "test", report_samples, seed=seed)
    return Evaluator(*opened, searching, selector, ledger=Ledger()), Evaluator(*opened, reporting, selector)


def measure_all(report: Evaluator, found: Mapping[str, Chosen]) -> dict[str, dict]:
    """Cost, score and KL of what was found, on the report split, and hypervolumes with the unpruned model."""
    cost, whole = report.cost(), (1.0,) * report.replay.layers
    schedules = sorted({whole, *(keep for chosen in found.values() for keep in chosen.values())})
    quality = dict(zip(schedules, report.evaluate(schedules), strict=True))
    unpruned = float(quality[whole].score.mean())
    records = {}
    for name, chosen in found.items():
        points = {
            f"{budget:g}": {
                "keep": keep,
                "cost": cost.exact(keep),
                "score": float(quality[keep].score.mean()),
                "kl": float(quality[keep].kl.mean()),
            }
            for budget, keep in chosen.items()
        }
        pairs = [(point["cost"], point["score"]) for point in points.values()]
        records[name] = {"points": points, "hypervolume": area([*pairs, (1.0, unpruned)])}
    return {"unpruned": unpruned, "found": records}


def area(pairs: Sequence[tuple[float, float]]) -> float:
    """Hypervolume of (cost, score) pairs with the reference cost 1, score 0."""
    total, best = 0.0, 0.0
    ordered = sorted(pairs)
    for (cost, score), (after, _) in zip(ordered, [*ordered[1:], (1.0, 0.0)], strict=True):
        best = max(best, score)
        total += (after - cost) * best
    return total
