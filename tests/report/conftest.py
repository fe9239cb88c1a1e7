"""Points for the tests of the report room."""

from collections.abc import Callable
from typing import Any

import pytest

from vispco.frontier import Point


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
