"""The augmented Lagrangian against cooper (Gallego-Posada et al.), an independent implementation; dev extra only."""

import pytest
import torch

from vispco.search.lagrangian import AugmentedLagrangian

cooper = pytest.importorskip("cooper", reason="cooper-optim is in the dev extra only")

DOUBLE = torch.float64
WORTH = torch.tensor([6.0, 3.0, 1.0], dtype=DOUBLE)
BUDGET = torch.tensor([0.2, 0.5, 0.7, 0.97], dtype=DOUBLE)
UNITS = 16
"""Four problems: ratios x of three places, worth more the larger, with two costs each. The second never binds."""


def objective(x):
    return (WORTH * (1 - x).square()).sum(dim=1)


def violations(x):
    """Shape (4, 2): mean, and mean square in excess of 1."""
    return torch.stack([x.mean(dim=1) - BUDGET, x.square().mean(dim=1) - 1.0], dim=1)


def counted(x):
    """Violations once ratios are counts."""
    return violations((UNITS * x.detach()).round() / UNITS)


def theirs(exact, penalty, damping, steps, lr, updater=None):
    """cooper's alternating descent and ascent, its dual rate the penalty times the damping: x, multipliers, penalties.

    cooper's state is flat: the 4 x 2 constraints are 8.
    """
    x = torch.ones(4, 3, dtype=DOUBLE, requires_grad=True)
    penalties = cooper.penalty_coefficients.DensePenaltyCoefficient(torch.full((8,), penalty, dtype=DOUBLE))

    class Problem(cooper.ConstrainedMinimizationProblem):
        def __init__(self):
            super().__init__()
            self.costs = cooper.Constraint(
                constraint_type=cooper.ConstraintType.INEQUALITY,
                formulation_type=cooper.formulations.AugmentedLagrangian,
                multiplier=cooper.multipliers.DenseMultiplier(num_constraints=8, dtype=DOUBLE),
                penalty_coefficient=penalties,
            )

        def compute_cmp_state(self):
            state = cooper.ConstraintState(
                violation=violations(x).flatten(), strict_violation=exact(x).detach().flatten()
            )
            return cooper.CMPState(loss=objective(x).sum(), observed_constraints={self.costs: state})

    problem = Problem()
    optimizer = cooper.optim.AlternatingPrimalDualOptimizer(
        cmp=problem,
        primal_optimizers=torch.optim.SGD([x], lr=lr),
        dual_optimizers=torch.optim.SGD(problem.dual_parameters(), lr=damping * penalty, maximize=True),
    )
    path = []
    for _ in range(steps):
        roll = optimizer.roll()
        if updater:
            updater.step(roll.cmp_state.observed_constraints)
        path.append(problem.costs.multiplier.weight.detach().clone().view(4, 2))
    return x.detach(), torch.stack(path), penalties.value.view(4, 2)


def ours(exact, steps, lr, **options):
    x = torch.ones(4, 3, dtype=DOUBLE, requires_grad=True)
    lagrangian = AugmentedLagrangian(4, 2, **options)
    optimizer = torch.optim.SGD([x], lr=lr)
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        (objective(x) + lagrangian(violations(x))).sum().backward()
        optimizer.step()
        lagrangian.update(exact(x))
        path.append(lagrangian.multiplier)
    return x.detach(), torch.stack(path), lagrangian.rho


@pytest.mark.parametrize("exact", [violations, counted])
@pytest.mark.parametrize("damping", [1.0, 0.3])
def test_the_same_steps_give_the_same_trajectory(exact, damping):
    """No growth: cooper's rule is another one. Every multiplier of 120 steps, soft or counted dual steps."""
    there, path, _ = theirs(exact, penalty=10.0, damping=damping, steps=120, lr=0.02)
    here, own, _ = ours(exact, penalty=10.0, growth=1.0, damping=damping, steps=120, lr=0.02)
    torch.testing.assert_close(own, path, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
    rising = own[1:, :, 0] > own[:-1, :, 0]
    falling = own[1:, :, 0] < own[:-1, :, 0]
    assert rising.any()
    assert falling.any(), "both directions were compared"
    assert (own[-1, :, 1] == 0).all()


def test_with_growing_penalties_both_end_at_the_same_kkt_point():
    """Their penalty grows wherever the violation is above 1e-3, ours where it does not fall."""
    updater = cooper.penalty_coefficients.MultiplicativePenaltyCoefficientUpdater(
        growth_factor=1.01, violation_tolerance=1e-3, has_restart=False
    )
    there, path, their_rho = theirs(violations, penalty=5.0, damping=1.0, steps=700, lr=0.02, updater=updater)
    here, own, rho = ours(
        violations, penalty=5.0, growth=1.2, tolerance=0.99, resolution=1e-3, cap=100.0, steps=700, lr=0.02
    )
    assert their_rho.max() > 5.0
    assert rho.max() > 5.0
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)
    torch.testing.assert_close(own[-1], path[-1], rtol=0, atol=1e-4)
    # Stationary and feasible, so not merely wrong together.
    pull = own[-1][:, :1] / 3 + own[-1][:, 1:] * 2 * here / 3
    torch.testing.assert_close(2 * WORTH * (1 - here), pull, rtol=0, atol=1e-4)
    assert violations(here).max() < 1e-4


def test_value_and_gradient_are_the_same_at_random_states():
    generator = torch.Generator().manual_seed(0)
    g, multiplier, rho = torch.randn(3, 50, 4, 2, generator=generator, dtype=DOUBLE)
    multiplier, rho = multiplier.clamp(min=0.0), rho.abs() + 0.01
    for there, own, penalty in zip(g, multiplier, rho, strict=True):
        lagrangian = AugmentedLagrangian(4, 2)
        lagrangian.multiplier, lagrangian.rho = own, penalty
        soft = there.clone().requires_grad_()
        value = lagrangian(soft).sum()
        value.backward()
        reference = there.clone().requires_grad_()
        expected = cooper.formulations.utils.compute_primal_quadratic_augmented_contribution(
            own.flatten(), penalty.flatten(), reference.flatten(), cooper.ConstraintType.INEQUALITY
        )
        expected.backward()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(soft.grad, reference.grad)
