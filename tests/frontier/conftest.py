"""Points for the tests of the frontier room."""

from collections.abc import Callable
from typing import Any

import pytest

from vispco.frontier import Point


@pytest.fixture(scope="session")
def make_point() -> Callable[..., Point]:
    """Build a valid point from a cost, a score and whatever the test cares about."""

    def make(flops: float = 0.5, score: float = 0.5, **changes: Any) -> Point:
        fields: dict[str, Any] = {
            "name": f"grid {flops} {score}",
            "method": "grid",
            "selector": "fastv",
            "keep": (1.0, 0.5, 0.25),
            "split": "test",
            "seed": 0,
            "costs": {"flops": flops},
            "quality": {"score": score},
            "slices": {"colour": 0.75, "count": 0.1},
            "samples": 64,
            "backend": "sdpa",
            "dtype": "float32",
            "model": "m1",
            "prompt": "p1",
        }
        return Point(**(fields | changes))

    return make
