"""Points of candidates that bring their own selector."""

import numpy as np
import pytest

from vispco.data import load_samples
from vispco.engine import load_checkpoint
from vispco.evaluation import Candidate, Evaluator, Provenance, measure

KEEP = (1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.1, 0.1)


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(scope="module")
def evaluator(micro, tmp_path_factory):
    samples = load_samples("shapes", "validation", 16, cache=tmp_path_factory.mktemp("cache"))
    return Evaluator(*micro, samples, "mob", {"share": 0.25})


def test_candidates_are_measured_with_their_own_selector_at_its_cost(micro, evaluator):
    """Whatever the order: the candidate without one comes after others, and is still of the evaluator's."""
    candidates = [
        Candidate("tuned", "tpe", KEEP, selector="mob", params={"share": 1.0, "k": 9}),
        Candidate("other", "tpe", KEEP, selector="fastv"),
        Candidate("other tuned", "tpe", KEEP, selector="balanced_fastv", params={"alpha": 0.1}),
        Candidate("plain", "tpe", KEEP),
        Candidate("named", "tpe", KEEP, selector="mob"),
        Candidate("defaults", "tpe", KEEP, selector="mob", params={}),
    ]
    provenance = Provenance.of(*micro, seed=0)
    measured = measure(evaluator, candidates, provenance, split="validation")
    points = {point.name: point for point, _ in measured}
    assert [(point.selector, point.selector_params) for point in points.values()] == [
        ("mob", {"share": 1.0, "k": 9}),
        ("fastv", {}),
        ("balanced_fastv", {"alpha": 0.1}),
        ("mob", {"share": 0.25}),
        ("mob", {"share": 0.25}),
        ("mob", {}),
    ]
    for point, quality in measured:
        alone = evaluator.share(point.selector, point.selector_params)
        assert point.costs["flops"] == alone.cost().exact(KEEP)
        np.testing.assert_allclose(quality.kl, alone.evaluate([KEEP])[0].kl, atol=1e-6)
    assert points["other"].costs["flops"] != points["plain"].costs["flops"]
    assert len({point.quality["kl"] for point in points.values()}) == 5
