"""The study of gradients: its differences and estimators on cases with a known answer, and its page."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vispco.engine.attention import policy_attention
from vispco.engine.relaxed import RelaxedPrefill

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "gradients"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"experiments.gradients.{name}")


class Linear:
    """A problem of which the KL is known: weights times ratios."""

    weights = np.array([0.0, -1.0, -2.0, -3.0, -5.0])
    tokens = 32.0

    def measure(self, keeps):
        assert (np.diff(keeps, axis=1) <= 1e-12).all(), "only schedules are measured"
        assert ((keeps >= 0) & (keeps <= 1)).all()
        return (keeps @ self.weights)[:, None].repeat(2, axis=1)


@pytest.mark.parametrize("keep", [(1, 1, 0.6, 0.6, 0.3), (1, 0.5, 0.5, 0.5, 0.5), (1, 1, 1, 1, 0.4)])
def test_differences_of_a_linear_function_are_exact_and_reach_every_layer(load, keep):
    slopes = load("directions").layer_slopes(Linear(), np.array(keep, dtype=float), 1 / 16)
    for slope in slopes:
        assert slope.samples == pytest.approx([slope.direction @ Linear.weights] * 2)
    assert (sum(slope.direction for slope in slopes)[1:] > 0).all()
    if keep[1] == 1:
        assert "earlier" in {slope.kind for slope in slopes}


def test_the_agreement_of_estimates_that_are_known(load):
    def point(start):
        def slope(value):
            names = [2 * value, -value]
            return {"kind": "size", "difference": value, "halves": [value] * 2, "error": 0.0, "estimates": names}

        return {"keep": [], "slopes": [slope(float(value)) for value in range(start, start + 4)]}

    agreement, points = load("study").agreement, [point(1), point(5), point(-9)]
    assert agreement(points, ["size"], 0) == {"signs": [1.0] * 3, "rank": [1.0] * 3, "scale": [2.0] * 3}
    assert agreement(points, ["size"], 1) == {"signs": [0.0] * 3, "rank": [-1.0] * 3, "scale": [1.0] * 3}
    assert agreement(points, ["size"], None)["rank"] == [1.0] * 3


def test_leaving_a_token_in_or_out_is_what_its_derivative_says(load):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 4, dtype=torch.float64) for _ in range(3))
    policy = torch.tensor([[1, 0, 1, 1, 0, 1]], dtype=torch.float64, requires_grad=True)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    out = load("estimators").leave_one_attention(query, key, value, causal, policy, 0.5)
    torch.testing.assert_close(out, policy_attention(query, key, value, causal, policy.detach(), 0.5))
    outer = torch.randn_like(out)
    (slope,) = torch.autograd.grad((out * outer).sum(), policy)
    for token in range(1, 6):  # token 0 is all that the first row sees
        flipped = policy.detach().clone()
        flipped[0, token] = 1 - flipped[0, token]
        change = policy_attention(query, key, value, causal, flipped, 0.5) - out.detach()
        sign = 1 - 2 * policy[0, token].item()
        assert slope[0, token].item() == pytest.approx(sign * (change * outer).sum().item())


def test_the_gaussian_threshold_is_that_of_the_equations(load):
    """Its weights at the first layer, against a loop over the sorted scores of one sample."""
    problem, estimators = load("directions").random_family("llava", 2), load("estimators")
    caught, own = {}, estimators.GaussianThreshold._apply

    def apply(self, ratio, hidden, ranks, slope):
        result = own(self, ratio, hidden, ranks, slope)
        caught.setdefault("first", (self._scores[0].tolist(), self.weight[0].tolist()))
        return result

    estimators.GaussianThreshold._apply = apply
    try:
        gradient = estimators.Estimator("gaussian", 3.0).gradient(problem, np.array([1.0, 0.5, 0.5, 0.25]))
    finally:
        estimators.GaussianThreshold._apply = own
    scores, weights = caught["first"]
    near = np.exp(-((np.arange(16) - 8.0) ** 2) / 18)
    threshold = (near * sorted(scores, reverse=True)).sum() / near.sum()
    assert weights == pytest.approx([1 / (1 + np.exp(-(s - threshold) / 0.1)) for s in scores], rel=1e-4)
    assert np.isfinite(gradient).all()
    assert (gradient[1:] != 0).all()
    assert importlib.import_module("vispco.engine.replay").RelaxedPrefill is RelaxedPrefill


def test_one_model_from_differences_to_tables(load, tmp_path):
    study, estimators = load("study"), load("estimators")
    some = (estimators.ESTIMATORS[1], estimators.ESTIMATORS[-1])
    found = study.study(load("directions").random_family("llava", 3), 2, 0, some)
    results = {"estimators": [one.name for one in some], "models": {study.EMBEDDED: found, "llava": found}}
    text = study.tables(results)
    assert text.count("soft rank, soft forward, temperature 0.1 | ") >= 4
    kinds = {slope["kind"] for point in found["points"] for slope in point["slopes"]}
    assert kinds >= {"kernel centre", "kernel size", "earlier"}


def test_the_page_has_the_tables_of_the_results(load):
    results = json.loads((FOLDER / "results.json").read_text())
    page = (FOLDER / "README.md").read_text()
    assert load("study").tables(results) in page
