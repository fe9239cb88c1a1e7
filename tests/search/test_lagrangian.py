"""The augmented Lagrangian finds solutions and multipliers known in closed form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.search.lagrangian import AugmentedLagrangian

DOUBLE = torch.float64


def vector(*values):
    return torch.tensor(values, dtype=DOUBLE)


def solve(objective, constraint, start, rounds=40, **options):
    """Minimise per problem ``objective(x) + AL(constraint(x))``; rows of ``start`` are independent problems."""
    x = start.clone().requires_grad_()
    lagrangian = AugmentedLagrangian(len(start), **options)
    for _ in range(rounds):
        optimizer = torch.optim.LBFGS([x], max_iter=50, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = (objective(x) + lagrangian(constraint(x))).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        lagrangian.update(constraint(x))
    return x.detach(), lagrangian.multiplier


def assert_near(found, *expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=1e-4)


@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_upper_bound(damping):
    """min (x - 2)^2 subject to x <= 1: x = 1, and 2 (x - 2) + lambda = 0."""
    x, multiplier = solve(
        lambda x: (x[:, 0] - 2) ** 2, lambda x: x[:, 0] - 1, torch.zeros(1, 1).double(), damping=damping
    )
    assert_near(x, [1.0])
    assert_near(multiplier, 2.0)


def test_half_plane():
    """min x^2 + y^2 subject to x + y >= 1: x = y = 1/2, lambda = 1."""
    x, multiplier = solve(lambda x: x.square().sum(dim=1), lambda x: 1 - x.sum(dim=1), vector(3.0, -1.0)[None])
    assert_near(x, [0.5, 0.5])
    assert_near(multiplier, 1.0)


def test_inactive_constraint_has_no_multiplier():
    """min (x - 1/2)^2 subject to x <= 1, from a start that breaks it."""
    x, multiplier = solve(lambda x: (x[:, 0] - 0.5) ** 2, lambda x: x[:, 0] - 1, vector(5.0)[None])
    assert_near(x, [0.5])
    assert multiplier.tolist() == [0.0]


def test_independent_problems_at_once():
    """min (x - a)^2 subject to x <= b: x = min(a, b), lambda = 2 max(0, a - b); as if each were alone."""
    wish, limit = vector(2.0, 2.0, 0.5, -1.0, 10.0), vector(1.0, 3.0, 0.0, 0.0, -5.0)
    x, multiplier = solve(lambda x: (x[:, 0] - wish) ** 2, lambda x: x[:, 0] - limit, torch.zeros(5, 1).double())
    assert_near(x[:, 0], 1.0, 2.0, 0.0, -1.0, -5.0)
    assert_near(multiplier, 2.0, 0.0, 1.0, 0.0, 30.0)
    alone, _ = solve(lambda x: (x[:, 0] - 10.0) ** 2, lambda x: x[:, 0] + 5.0, torch.zeros(1, 1).double())
    assert_near(alone[:, 0], -5.0)


numbers = st.floats(-5.0, 5.0)


@settings(deadline=None, max_examples=100)
@given(st.floats(0.0, 5.0), st.floats(0.1, 50.0), numbers)
def test_value_and_pull_by_the_formula(multiplier, rho, violation):
    lagrangian = AugmentedLagrangian(1, penalty=rho)
    lagrangian.multiplier = vector(multiplier)
    g = vector(violation).requires_grad_()
    value = lagrangian(g)
    expected = (max(0.0, multiplier + rho * violation) ** 2 - multiplier**2) / (2 * rho)
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    value.sum().backward()
    assert g.grad.item() == pytest.approx(max(0.0, multiplier + rho * violation), rel=1e-12, abs=1e-12)


def test_slack_is_never_punished():
    lagrangian = AugmentedLagrangian(2, penalty=10.0)
    lagrangian.multiplier = vector(0.0, 3.0)
    slack = torch.tensor([-0.01, -0.5], requires_grad=True)
    value = lagrangian(slack)
    assert value.dtype == DOUBLE
    value.sum().backward()
    assert slack.grad.tolist() == [0.0, 0.0]
    assert value.tolist() == [0.0, -0.45]


def test_dual_step_is_projected_and_damped():
    lagrangian = AugmentedLagrangian(3, penalty=2.0, damping=0.5)
    lagrangian.update(torch.tensor([0.5, -0.5, 0.0], requires_grad=True))
    assert lagrangian.multiplier.tolist() == [0.5, 0.0, 0.0]
    assert not lagrangian.multiplier.requires_grad
    lagrangian.update(torch.tensor([-0.125, -9.0, 0.25]))
    assert lagrangian.multiplier.tolist() == [0.375, 0.0, 0.25]
    lagrangian.update(torch.tensor([-9.0, 0.0, 0.0]))
    assert lagrangian.multiplier.tolist() == [0.1875, 0.0, 0.25], "half of the way to zero"


def test_penalty_grows_only_where_the_violation_does_not_shrink():
    lagrangian = AugmentedLagrangian(4, penalty=1.0, growth=3.0, tolerance=0.5, cap=20.0)

    def after(*violation):
        lagrangian.update(vector(*violation))
        return lagrangian.rho.tolist()

    assert after(1.0, 1.0, -1.0, 0.0) == [1.0, 1.0, 1.0, 1.0], "there is nothing to compare the first one with"
    assert after(0.6, 0.5, -2.0, 0.0) == [3.0, 1.0, 1.0, 1.0]
    assert after(0.2, 0.4, -2.0, 0.1) == [3.0, 3.0, 1.0, 3.0], "satisfied before, broken now"
    assert after(0.2, 0.0, 0.0, -0.1) == [9.0, 3.0, 1.0, 3.0]
    assert after(0.2, 0.0, 0.0, -0.1) == [20.0, 3.0, 1.0, 3.0], "capped"
    assert after(0.2, 0.0, 0.0, -0.1) == [20.0, 3.0, 1.0, 3.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), st.floats(0.1, 1.0))
def test_bounds_hold_along_every_path(path, damping):
    lagrangian = AugmentedLagrangian(2, penalty=0.5, growth=4.0, cap=30.0, damping=damping)
    for violation in path:
        before = lagrangian.rho
        lagrangian.update(vector(*violation))
        assert (lagrangian.multiplier >= 0).all()
        assert (lagrangian.rho >= before).all()
        assert (lagrangian.rho <= 30.0).all()


def test_keep_goes_on_as_if_the_others_had_never_been():
    first, later = vector(1.0, 2.0, -1.0, 0.5), vector(0.9, 0.1, 0.3, 0.5)
    lagrangian, alone = AugmentedLagrangian(4), AugmentedLagrangian(2)
    lagrangian.update(first)
    lagrangian.keep(torch.tensor([3, 0]))
    assert lagrangian.constraints == 2
    alone.update(first[[3, 0]])
    for state in (lagrangian, alone):
        state.update(later[[3, 0]])
    assert torch.equal(lagrangian.multiplier, alone.multiplier)
    assert torch.equal(lagrangian.rho, alone.rho)
    assert lagrangian.rho.tolist() == [2.0, 2.0]
    assert torch.equal(lagrangian(later[[3, 0]]), alone(later[[3, 0]]))
