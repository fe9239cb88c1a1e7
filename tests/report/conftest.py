"""Points for the tests of the report room."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vispco.frontier import Interval, Point
from vispco.report import BudgetRow, Convergence, IndicatorRow, Overlay, ReportData, Scores


@pytest.fixture(scope="session")
def make_point() -> Callable[..., Point]:
    """Build a valid point from its name, method, cost and score."""

    def make(name: str, method: str, flops: float, score: float, **changes: Any) -> Point:
        fields: dict[str, Any] = {
            "name": name,
            "method": method,
            "selector": "fastv",
            "keep": (1.0, 0.5, 0.5, 0.002),
            "split": "test",
            "seed": 0,
            "costs": {"flops": flops},
            "quality": {"score": score},
            "slices": {"colour": 0.75, "count": 0.25},
            "samples": 64,
            "backend": "sdpa",
            "dtype": "float32",
            "model": "m1",
            "prompt": "p1",
        }
        return Point(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def searched(make_point) -> list[Point]:
    """A comparison without controls; one grid, one step and one learned point are dominated."""
    return [
        make_point("unpruned", "unpruned", 1.0, 0.95, slices={"colour": 0.9, "count": 0.8}),
        make_point("grid a", "grid", 0.6, 0.85),
        make_point("grid b", "grid", 0.3, 0.7),
        make_point("grid c", "grid", 0.7, 0.6),
        make_point("step a", "step", 0.5, 0.7),
        make_point("step b", "step", 0.55, 0.65),
        make_point("learned b=0.50", "learned", 0.5, 0.83, budget=0.5),
        make_point("learned b=0.30", "learned", 0.3, 0.71, budget=0.3),
        make_point("learned b=0.70", "learned", 0.7, 0.82, budget=0.7),
    ]


@pytest.fixture(scope="session")
def compared(make_point, searched) -> list[Point]:
    """The same with controls."""
    return [
        *searched,
        make_point("random b=0.50", "control", 0.5, 0.6),
        make_point("random b=0.30", "control", 0.3, 0.5),
        make_point("FastV default", "control: selector", 0.6, 0.75),
    ]


@pytest.fixture(scope="session")
def data(compared) -> ReportData:
    """A report of everything but what needs single samples."""
    by_name = {point.name: point for point in compared}
    return ReportData(
        title="micro on shapes",
        facts=[("Model", "micro"), ("Seed", "7")],
        points=compared,
        budgets=[
            BudgetRow(0.3, by_name["learned b=0.30"], by_name["grid b"], Interval(-0.01, -0.035, 0.012)),
            BudgetRow(0.5, by_name["learned b=0.50"].model_copy(update={"slices": {"colour": 0.6, "count": 0.79}})),
        ],
        indicators=[
            IndicatorRow("hypervolume", "more is better", 0.45, 0.5),
            IndicatorRow("IGD+", "less is better", 0.0123456),
            IndicatorRow("spent", "FLOPs", 2.5e12, 1e14),
        ],
        overlays=[Overlay(Image.new("RGB", (8, 8)), (2, 2), {2: [[True] * 2, [False] * 2]}, "Q?", "A", "S")],
    )


@pytest.fixture(scope="session")
def full(data) -> ReportData:
    """Every part of a report: a second cost in which other points are on the frontier, and a second quality."""
    points = [
        point.model_copy(
            update={
                "costs": {"kv": round(abs(point.costs["flops"] - 0.52) + 0.01 * place, 3), **point.costs},
                "quality": {**point.quality, "kl": round(1.0 - point.quality["score"] ** 2, 3)},
            }
        )
        for place, point in enumerate(data.points)
    ]
    by_name = {point.name: point for point in points}
    grid = by_name["grid a"] = by_name["grid a"].model_copy(update={"keep": (1.0, 1.0, 0.125, 0.0)})
    points = [by_name[point.name] for point in points]
    mask = np.array([[True, False, True], [False, False, True]])
    return ReportData(
        title=data.title,
        facts=data.facts,
        points=points,
        budgets=[BudgetRow(0.5, by_name["learned b=0.50"], grid), BudgetRow(0.3, by_name["learned b=0.30"])],
        overlays=[Overlay(Image.new("RGB", (30, 20), "teal"), (2, 3), {1: mask, 3: mask & False}, "Q?", "A", "S")],
        overlaid="learned b=0.50",
        scores=Scores(
            {
                "unpruned": [1, 1, 1, 1, 1, 1, 0, 1],
                "learned b=0.50": [1, 1, 1, 0, 0, 0, 0, 1],
                "grid a": [1, 1, 1, 1, 1, 1, 1, 0],
            },
            ["colour"] * 4 + ["count"] * 3 + ["rare"],
        ),
        convergence=Convergence("gradient step", {"loss": [0.5, float("nan"), 0.25], "multiplier": [0.0, 1.0, 2.0]}),
    )
