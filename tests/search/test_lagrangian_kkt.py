"""The augmented Lagrangian finds solutions and multipliers known in closed form, within 1e-4."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.search.lagrangian import AugmentedLagrangian

DOUBLE = torch.float64


def rows(*values):
    return torch.tensor(values, dtype=DOUBLE)


def solve(objective, violation, start, rounds=40, **options):
    """Minimise ``objective(x) + AL(violation(x))`` per row of ``start``; solutions and the Lagrangian."""
    x = start.clone().requires_grad_()
    shape = violation(start).shape
    lagrangian = AugmentedLagrangian(*shape, **options)
    for _ in range(rounds):
        optimizer = torch.optim.LBFGS(
            [x], max_iter=30, tolerance_grad=1e-8, tolerance_change=1e-14, line_search_fn="strong_wolfe"
        )

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = (objective(x) + lagrangian(violation(x))).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        lagrangian.update(violation(x))
    return x.detach(), lagrangian


def assert_near(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=DOUBLE), rtol=0, atol=1e-4)


@pytest.mark.parametrize("damping", [1.0, 0.5, 0.2])
def test_upper_bounds_of_independent_problems(damping):
    """min (x - a)^2 subject to x <= b: x = min(a, b), lambda = 2 max(0, a - b); as if each were alone."""
    wish, limit = rows(2.0, 2.0, 0.5, -1.0, 10.0), rows(1.0, 3.0, 0.0, 0.0, -5.0)
    x, lagrangian = solve(
        lambda x: (x[:, 0] - wish) ** 2,
        lambda x: x[:, 0] - limit,
        torch.full((5, 1), 4.0, dtype=DOUBLE),
        penalty=10.0,
        damping=damping,
        rounds=80,
    )
    assert_near(x[:, 0], [1.0, 2.0, 0.0, -1.0, -5.0])
    assert_near(lagrangian.multiplier, [2.0, 0.0, 1.0, 0.0, 30.0])
    assert lagrangian.multiplier[[1, 3]].tolist() == [0.0, 0.0], "slack at the solution: exactly 0"


def test_linear_objective_over_balls():
    """min c x subject to |x|^2 <= r^2: x = -r c / |c|, lambda = |c| / 2r."""
    c, radius = rows([3.0, 4.0], [0.0, -1.0], [1.0, 1.0]), rows(1.0, 2.0, 0.5)
    x, lagrangian = solve(
        lambda x: (c * x).sum(dim=1),
        lambda x: x.square().sum(dim=1) - radius**2,
        torch.full((3, 2), 0.1, dtype=DOUBLE),
        penalty=3.0,
    )
    length = c.norm(dim=1)
    assert_near(x, -(radius / length)[:, None] * c)
    assert_near(lagrangian.multiplier, length / (2 * radius))


def test_two_constraints_with_none_one_and_both_of_them_active():
    """min |x - a|^2 subject to x + y <= 2 and x <= 1/2, from a start that breaks both, for four a.

    a = (2, 2): both hold with equality at (1/2, 3/2); 2 (y - 2) + l_1 = 0 and 2 (x - 2) + l_1 + l_2 = 0.
    a = (0, 4): only the first, at (-1, 3). a = (3, 0): only the second, at (1/2, 0). a = (0, 1): neither.
    """
    wish = rows([2.0, 2.0], [0.0, 4.0], [3.0, 0.0], [0.0, 1.0])
    x, lagrangian = solve(
        lambda x: (x - wish).square().sum(dim=1),
        lambda x: torch.stack([x.sum(dim=1) - 2, x[:, 0] - 0.5], dim=1),
        torch.full((4, 2), 6.0, dtype=DOUBLE),
    )
    assert_near(x, [[0.5, 1.5], [-1.0, 3.0], [0.5, 0.0], [0.0, 1.0]])
    assert_near(lagrangian.multiplier, [[1.0, 2.0], [2.0, 0.0], [0.0, 5.0], [0.0, 0.0]])
    slack = lagrangian.multiplier[[1, 2, 3, 3], [1, 0, 0, 1]]
    assert slack.tolist() == [0.0] * 4


def quadratic(seed, problems=4, dimension=4, constraints=3):
    """Random strictly convex quadratic programs min x'Hx/2 - cx, Gx <= h, with gradients far from dependent."""
    random = np.random.default_rng(seed)
    while True:
        root = random.normal(size=(problems, dimension, dimension))
        hessian = root @ root.transpose(0, 2, 1) / dimension + np.eye(dimension)
        normals = random.normal(size=(problems, constraints, dimension))
        normals /= np.linalg.norm(normals, axis=2, keepdims=True)
        gram = normals @ np.linalg.solve(hessian, normals.transpose(0, 2, 1))
        if np.linalg.eigvalsh(gram).min() > 0.05:
            return hessian, 3 * random.normal(size=(problems, dimension)), normals, random.normal(size=gram.shape[:2])


def active_set(hessian, c, normals, h):
    """Primal and multipliers of one quadratic program: the only active set that satisfies every KKT condition."""
    for size in range(len(h) + 1):
        for active in map(list, combinations(range(len(h)), size)):
            g = normals[active]
            system = np.block([[hessian, g.T], [g, np.zeros((size, size))]])
            point = np.linalg.solve(system, np.concatenate([c, h[active]]))
            x, multiplier = point[: len(c)], np.zeros(len(h))
            multiplier[active] = point[len(c) :]
            if (multiplier >= 0).all() and (normals @ x <= h + 1e-9).all():
                return x, multiplier
    raise AssertionError("a strictly convex program with independent constraints has a solution")


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.6]))
def test_random_quadratic_programs(seed, damping):
    problem = quadratic(seed)
    hessian, c, normals, h = map(torch.from_numpy, problem)
    lagrangian = AugmentedLagrangian(*h.shape, penalty=50.0, damping=damping)
    x = torch.zeros_like(c)
    for _ in range(30):
        for _ in range(5):  # Newton's method: the objective is quadratic on every side of the constraints
            x = x.detach().requires_grad_()
            violation = torch.einsum("pci,pi->pc", normals, x) - h
            objective = torch.einsum("pi,pij,pj->p", x, hessian, x) / 2 - (c * x).sum(dim=1)
            (gradient,) = torch.autograd.grad((objective + lagrangian(violation)).sum(), x)
            weight = lagrangian.rho * (lagrangian.multiplier + lagrangian.rho * violation > 0)
            x = x - torch.linalg.solve(hessian + torch.einsum("pci,pc,pcj->pij", normals, weight, normals), gradient)
        lagrangian.update(torch.einsum("pci,pi->pc", normals, x) - h)
    expected, multiplier = map(
        np.stack, zip(*(active_set(*parts) for parts in zip(*problem, strict=True)), strict=True)
    )
    assert_near(x.detach(), expected)
    assert_near(lagrangian.multiplier, multiplier)


def test_nonconvex_between_bounds():
    """min -x^2 subject to -1/2 <= x <= 1, from 0.3: x = 1, lambda = (0, 2). Without a penalty there is no minimum."""
    x, lagrangian = solve(
        lambda x: -x[:, 0].square(), lambda x: torch.cat([-0.5 - x, x - 1], dim=1), rows([0.3]), penalty=5.0
    )
    assert_near(x, [[1.0]])
    assert_near(lagrangian.multiplier, [[0.0, 2.0]])


@pytest.mark.parametrize("penalty", [0.05, 0.1, 1.0])
def test_a_growing_penalty_makes_a_nonconvex_problem_convex(penalty):
    """min -x^2 + x^4 / 16 subject to x <= 1 and x >= -1/2: x = 1, lambda = 7/4; needs rho > 5/4.

    Below that the minimiser jumps between far sides of the bound, and the violation is the same every other time.
    """
    grid = torch.linspace(-0.5, 4.0, 4501, dtype=DOUBLE)

    def end(growth):
        lagrangian = AugmentedLagrangian(1, penalty=penalty, growth=growth, cap=20.0)
        seen = []
        for _ in range(300):
            active = (lagrangian.multiplier + lagrangian.rho * (grid - 1)).clamp(min=0.0)
            x = grid[(-(grid**2) + grid**4 / 16 + active**2 / (2 * lagrangian.rho)).argmin()]
            lagrangian.update(x[None] - 1)
            seen.append(x.item())
        return seen[-20:], lagrangian

    seen, lagrangian = end(growth=2.0)
    assert seen == pytest.approx([1.0] * 20, abs=1e-3)
    # The grid's step of 0.001 leaves the multiplier free within rho times that.
    assert lagrangian.multiplier.item() == pytest.approx(1.75, abs=0.001 * lagrangian.rho.item())
    seen, _ = end(growth=1.0)
    assert min(seen) < 0
    assert max(seen) > 2


UNITS, PLACES = 16, 6


def spend(lagrangian, budget, rounds=120, steps=3, optimizer=None):
    """Six ratios with falling worth, each in sixteenths once counted: the exact cost is the rounding of the soft one.

    ``steps`` primal steps between dual steps, too few to settle. Violations in units and multipliers, shape (rounds,
    problems) each.
    """
    worth = rows(6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    x = torch.ones(len(budget), PLACES, dtype=DOUBLE, requires_grad=True)
    optimizer = optimizer([x])
    violations, multipliers = [], []
    for _ in range(rounds):
        for _ in range(steps):
            optimizer.zero_grad()
            ((worth * (1 - x) ** 2).sum(dim=1) + lagrangian(x.mean(dim=1) - budget)).sum().backward()
            optimizer.step()
            with torch.no_grad():
                x.clamp_(0.0, 1.0)
        exact = (UNITS * x.detach()).round().sum(dim=1) / (UNITS * PLACES) - budget
        lagrangian.update(exact)
        violations.append(exact * UNITS * PLACES)
        multipliers.append(lagrangian.multiplier)
    return torch.stack(violations), torch.stack(multipliers)


def swing(multipliers):
    last = multipliers[-len(multipliers) // 3 :]
    return last.max(dim=0).values - last.min(dim=0).values


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.03)


def descent(parameters):
    return torch.optim.SGD(parameters, lr=0.02)


def test_rounded_cost_with_unsettled_steps_needs_damping():
    """Budgets of 60 and 72 units, which can be met exactly."""
    budget = rows(0.625, 0.75)
    damped, multipliers = spend(AugmentedLagrangian(2, penalty=30.0, growth=1.0, damping=0.2), budget, optimizer=adam)
    assert swing(multipliers).tolist() == [0.0, 0.0], "at rest"
    assert damped[-1].abs().max() < 1e-9, "the budget is met, and spent"
    # The multiplier takes up what rounding hides, at most half a unit per place, times penalty and slope.
    slope = 2 * PLACES**2 / (1 / rows(6.0, 5.0, 4.0, 3.0, 2.0, 1.0)).sum()
    assert (multipliers[-1] - slope * (1 - budget)).abs().max() < (30.0 + slope) / (2 * UNITS)
    wild, multipliers = spend(AugmentedLagrangian(2, penalty=30.0, growth=1.0, damping=1.0), budget, optimizer=adam)
    assert swing(multipliers).min() > 10
    assert wild[-40:].max() > 5


@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_a_budget_between_units_is_met_every_other_time_with_swings_of_a_unit(damping):
    """60.4 and 72.4 units cannot be met: the dual step hunts between 0.4 below and 0.6 above, and no further."""
    budget = rows(0.625, 0.75) + 0.4 / (UNITS * PLACES)
    lagrangian = AugmentedLagrangian(2, penalty=30.0, growth=1.0, damping=damping)
    violations, multipliers = spend(lagrangian, budget, optimizer=descent)
    assert violations[-40:].max() < 1
    assert violations[-40:].min() > -1
    assert (violations[-40:] < 0).any(dim=0).all()
    # Two steps of one unit each at the most.
    assert swing(multipliers).max() < 2 * damping * 30.0 / (UNITS * PLACES)


def test_without_a_resolution_the_units_drive_the_penalty_to_its_cap():
    budget = rows(0.625, 0.75) + 0.4 / (UNITS * PLACES)
    options = {"penalty": 30.0, "growth": 1.5, "tolerance": 0.9}
    blind = AugmentedLagrangian(2, **options)
    _, multipliers = spend(blind, budget, optimizer=descent)
    assert blind.rho.tolist() == [1000.0] * 2
    assert swing(multipliers).min() > 10
    aware = AugmentedLagrangian(2, **options, resolution=1 / (UNITS * PLACES))
    _, multipliers = spend(aware, budget, optimizer=descent)
    assert aware.rho.tolist() == [30.0] * 2
    assert swing(multipliers).max() < 1
