"""The augmented Lagrangian's parts: value and pull, dual step, penalties, shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.errors import ConfigError
from vispco.search.lagrangian import AugmentedLagrangian

DOUBLE = torch.float64


def vector(*values):
    return torch.tensor(values, dtype=DOUBLE)


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


@settings(deadline=None, max_examples=100)
@given(st.floats(-5.0, -1e-300), st.floats(0.01, 1e3))
def test_slack_is_not_punished_at_all_while_the_multiplier_is_zero(violation, rho):
    lagrangian = AugmentedLagrangian(1, penalty=rho)
    slack = vector(violation).requires_grad_()
    value = lagrangian(slack)
    value.sum().backward()
    assert value.item() == 0.0
    assert slack.grad.item() == 0.0
    lagrangian.update(slack)
    assert lagrangian.multiplier.item() == 0.0
    assert lagrangian.rho.item() == rho


def test_enough_slack_has_no_pull_under_a_positive_multiplier_either():
    lagrangian = AugmentedLagrangian(2, penalty=10.0)
    lagrangian.multiplier = vector(0.0, 3.0)
    slack = torch.tensor([-0.01, -0.5], requires_grad=True)
    value = lagrangian(slack)
    assert value.dtype == DOUBLE
    value.sum().backward()
    assert slack.grad.tolist() == [0.0, 0.0]
    assert value.tolist() == [0.0, -0.45]


@pytest.mark.parametrize("damping", [1.0, 0.5, 0.2])
def test_a_multiplier_with_slack_falls_to_exactly_zero(damping):
    lagrangian = AugmentedLagrangian(1, penalty=10.0, damping=damping)
    lagrangian.multiplier = vector(3.0)
    seen = []
    while lagrangian.multiplier.item() > 0:
        seen.append(lagrangian.multiplier.item())
        lagrangian.update(vector(-0.1))
        assert len(seen) < 20
    assert seen == pytest.approx([3.0 - damping * k for k in range(len(seen))])
    assert len(seen) == round(3 / damping)


def test_dual_step_is_projected_and_damped():
    lagrangian = AugmentedLagrangian(3, penalty=2.0, damping=0.5)
    assert lagrangian.multiplier.dtype == lagrangian.rho.dtype == DOUBLE
    lagrangian.update(torch.tensor([0.5, -0.5, 0.0], requires_grad=True))
    assert lagrangian.multiplier.tolist() == [0.5, 0.0, 0.0]
    assert not lagrangian.multiplier.requires_grad
    lagrangian.update(torch.tensor([-0.125, -9.0, 0.25]))
    assert lagrangian.multiplier.tolist() == [0.375, 0.0, 0.25]
    lagrangian.update(torch.tensor([-9.0, 0.0, 0.0]))
    assert lagrangian.multiplier.tolist() == [0.0, 0.0, 0.25]


def test_the_dual_step_uses_the_penalty_that_the_primal_used():
    lagrangian = AugmentedLagrangian(1, penalty=2.0, growth=3.0)
    lagrangian.update(vector(1.0))
    lagrangian.update(vector(1.0))
    assert lagrangian.multiplier.tolist() == [4.0]
    assert lagrangian.rho.tolist() == [6.0]


def penalties(lagrangian):
    def after(*violation):
        lagrangian.update(vector(*violation))
        return lagrangian.rho.tolist()

    return after


def test_penalty_grows_only_where_the_violation_does_not_shrink():
    after = penalties(AugmentedLagrangian(4, penalty=1.0, growth=3.0, tolerance=0.5, cap=20.0))
    assert after(1.0, 1.0, -1.0, 0.0) == [1.0, 1.0, 1.0, 1.0], "there is nothing to compare the first one with"
    assert after(0.6, 0.5, -2.0, 0.0) == [3.0, 1.0, 1.0, 1.0]
    assert after(0.2, 0.4, -2.0, 0.1) == [3.0, 3.0, 1.0, 1.0], "the first violation of the last one is a first, too"
    assert after(0.2, 0.0, 0.0, -0.1) == [9.0, 3.0, 1.0, 1.0]
    assert after(0.2, 0.0, 0.0, -0.1) == [20.0, 3.0, 1.0, 1.0], "capped"
    assert after(0.2, 0.0, 0.0, -0.1) == [20.0, 3.0, 1.0, 1.0]


def test_a_violation_that_comes_back_is_compared_with_the_last_there_was():
    after = penalties(AugmentedLagrangian(3, growth=2.0, tolerance=0.5))
    after(1.0, 1.0, 1.0)
    after(-1.0, 0.0, -1.0)
    assert after(0.4, 0.6, -1.0) == [1.0, 2.0, 1.0], "an oscillation that dies out, one that does not, satisfied"
    after(-1.0, -1.0, -1.0)
    assert after(0.4, 0.3, 0.4) == [2.0, 2.0, 1.0]


def test_the_last_violation_counts_not_the_least():
    after = penalties(AugmentedLagrangian(1, growth=2.0, tolerance=0.5))
    assert [after(violation) for violation in (1.0, 0.2, 0.5, 0.24)] == [[1.0], [1.0], [2.0], [2.0]]


@pytest.mark.parametrize(("damping", "limit"), [(1.0, 0.5), (0.5, 0.75), (0.2, 0.9)])
def test_what_counts_as_progress_allows_for_the_damping(damping, limit):
    after = penalties(AugmentedLagrangian(2, growth=2.0, tolerance=0.5, damping=damping))
    after(1.0, 1.0)
    assert after(limit - 0.01, limit + 0.01) == [1.0, 2.0]


def test_violations_within_the_resolution_do_not_raise_the_penalty_but_the_multiplier():
    lagrangian = AugmentedLagrangian(2, growth=2.0, resolution=0.1)
    after = penalties(lagrangian)
    for rounds in range(1, 4):
        assert after(0.1, 0.11) == [1.0, 2.0 ** (rounds - 1)]
    assert lagrangian.multiplier[0].item() == pytest.approx(0.3)


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


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(numbers, min_size=6, max_size=6), min_size=1, max_size=8))
def test_constraints_of_a_problem_are_as_many_problems_whose_values_are_summed(path):
    options = {"penalty": 0.5, "growth": 3.0, "damping": 0.7, "resolution": 0.2}
    table, flat = AugmentedLagrangian(3, 2, **options), AugmentedLagrangian(6, **options)
    for row in path:
        violation = vector(*row).view(3, 2)
        torch.testing.assert_close(table(violation), flat(violation.flatten()).view(3, 2).sum(dim=1))
        table.update(violation)
        flat.update(violation.flatten())
    assert torch.equal(table.multiplier.flatten(), flat.multiplier)
    assert torch.equal(table.rho.flatten(), flat.rho)


@pytest.mark.parametrize("constraints", [None, 2])
def test_keep_goes_on_as_if_the_others_had_never_been(constraints):
    first, later = vector(1.0, 2.0, -1.0, 0.5), vector(0.9, 0.1, 0.3, 0.5)
    if constraints:
        first, later = torch.stack([first, first.flip(0)], dim=1), torch.stack([later, first], dim=1)
    lagrangian, alone = AugmentedLagrangian(4, constraints), AugmentedLagrangian(2, constraints)
    again = first * torch.linspace(1.0, 0.4, 4, dtype=DOUBLE).view(4, *[1] * (first.dim() - 1))
    for violation in (first, again):
        lagrangian.update(violation)
        alone.update(violation[[3, 0]])
    assert len(lagrangian.rho.unique()) == 2
    lagrangian.keep(torch.tensor([3, 0]))
    assert lagrangian.problems == 2
    for state in (lagrangian, alone):
        state.update(later[[3, 0]])
    assert torch.equal(lagrangian.multiplier, alone.multiplier)
    assert torch.equal(lagrangian.rho, alone.rho)
    assert torch.equal(lagrangian(later[[3, 0]]), alone(later[[3, 0]]))


@pytest.mark.parametrize(("constraints", "shape"), [(None, (1,)), (None, (3, 1)), (2, (3,)), (2, (2,)), (1, (3,))])
def test_a_violation_of_another_shape_is_refused(constraints, shape):
    lagrangian = AugmentedLagrangian(3, constraints)
    for method in (lagrangian, lagrangian.update):
        with pytest.raises(ValueError, match="has shape"):
            method(torch.zeros(shape))


@pytest.mark.parametrize(
    "option", [{"penalty": 5.0, "cap": 5.0}, {"growth": 1.0}, {"tolerance": 1.0}, {"damping": 1.0}, {"resolution": 0.0}]
)
def test_the_ends_of_ranges_are_legal(option):
    AugmentedLagrangian(1, **option)


def test_a_penalty_that_grows_doubles_unless_told_otherwise():
    lagrangian = AugmentedLagrangian(1)
    for _ in range(2):
        lagrangian.update(torch.ones(1))
    assert lagrangian.rho.tolist() == [2.0]


@pytest.mark.parametrize(
    ("option", "legal"),
    [
        ({"penalty": 0.0}, "above 0 and up to cap = 1000"),
        ({"penalty": 2e3}, "above 0 and up to cap = 1000"),
        ({"growth": 0.5}, "at least 1"),
        ({"tolerance": 0.0}, "above 0 and up to 1"),
        ({"tolerance": 1.1}, "above 0 and up to 1"),
        ({"damping": 0.0}, "above 0 and up to 1"),
        ({"damping": 1.5}, "above 0 and up to 1"),
        ({"damping": float("nan")}, "above 0 and up to 1"),
        ({"resolution": -1.0}, "at least 0"),
    ],
)
def test_parameters_out_of_range_are_refused(option, legal):
    (name, value), *_ = option.items()
    with pytest.raises(ConfigError, match=f"^{name} = {value:g} of the augmented .*; give {legal}$"):
        AugmentedLagrangian(1, **option)
