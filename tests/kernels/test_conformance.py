"""What every kernel promises, and what some of them must be able to express."""

from itertools import combinations

import pytest
import torch

from vispco.errors import ConfigError
from vispco.kernels import REGISTRY, make_kernel
from vispco.schedule import check_keep

MATRIX = {"step": [1], "multistep": [1, 2, 3]}
"""Every kernel of the registry and the numbers of steps it is tested with."""

CASES = [(name, steps) for name, choices in MATRIX.items() for steps in choices]
LAYERS = 12
SHARPNESS = (3.0, 10.0)
"""Where the learned search starts and ends."""

every_kernel = pytest.mark.parametrize(("name", "steps"), CASES)


def random_parameters(kernel, rows=200, dtype=torch.float64):
    """Legal and illegal alike: centres from two layers before the first to two after the last."""
    generator = torch.Generator().manual_seed(kernel.steps)
    centres = torch.rand(rows, kernel.steps, generator=generator, dtype=dtype) * (LAYERS + 4) - 2
    logits = torch.randn(rows, kernel.steps, generator=generator, dtype=dtype) * 3
    return torch.cat([centres, logits], dim=1)


def row(centres, factors):
    """Parameters of steps at layers ``centres`` that keep ``factors`` of what is left."""
    return torch.cat([torch.tensor(centres, dtype=torch.float64), torch.tensor(factors, dtype=torch.float64).logit()])


def test_matrix_covers_the_registry():
    assert set(MATRIX) == set(REGISTRY), "add the kernel to MATRIX, so that it is tested"


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sharpness", [*SHARPNESS, 1e6])
def test_smooth_schedule(name, steps, dtype, sharpness):
    kernel = make_kernel(name, steps)
    assert kernel.steps == steps
    ratios = kernel.ratios(random_parameters(kernel, dtype=dtype), LAYERS, sharpness)
    assert ratios.dtype == dtype
    assert ratios.shape == (200, LAYERS)
    assert (ratios[:, 0] == 1.0).all()
    assert (ratios >= 0.0).all()
    assert (ratios <= 1.0).all()
    # A sigmoid in floating point may rise by a rounding error where it falls on paper.
    assert (ratios.diff(dim=1) <= 4 * torch.finfo(dtype).eps).all()
    assert (ratios[:, -1] < 0.99).any(), "nothing is ever cut"


@every_kernel
def test_leading_dimensions(name, steps):
    kernel = make_kernel(name, steps)
    parameters = random_parameters(kernel, rows=6)
    many = kernel.ratios(parameters.reshape(2, 3, -1), LAYERS, 5.0)
    assert many.shape == (2, 3, LAYERS)
    for index, row in enumerate(parameters):
        torch.testing.assert_close(many.flatten(0, 1)[index], kernel.ratios(row, LAYERS, 5.0), rtol=0, atol=1e-12)
    assert kernel.harden(parameters.reshape(2, 3, -1), LAYERS).shape == (2, 3, LAYERS)
    assert kernel.project(parameters.reshape(2, 3, -1), LAYERS).shape == (2, 3, parameters.shape[-1])


@every_kernel
@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_gradient_is_alive_everywhere(name, steps, sharpness):
    """Between layers, on them and at the ends; it points to later and smaller cuts for a higher sum of ratios."""
    kernel = make_kernel(name, steps)
    for centre in torch.linspace(1.0, LAYERS - 1.0, 41, dtype=torch.float64).tolist():
        parameters = row([centre] * steps, [0.5] * steps).requires_grad_()
        kernel.ratios(parameters, LAYERS, sharpness).sum().backward()
        assert (parameters.grad > 1e-3).all(), f"centre {centre}: {parameters.grad}"


@every_kernel
def test_gradient_is_right(name, steps):
    kernel = make_kernel(name, steps)
    parameters = kernel.project(random_parameters(kernel, rows=3), LAYERS).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: kernel.ratios(p, LAYERS, 4.0), (parameters,))


@every_kernel
def test_hardened_schedule(name, steps):
    """At integer centres hardening is the limit; elsewhere the step goes to the nearest layer."""
    kernel = make_kernel(name, steps)
    parameters = kernel.project(random_parameters(kernel), LAYERS)
    parameters[:20, :steps] = parameters[:20, :steps].floor() + 0.5  # as near to one layer as to the next
    hard = kernel.harden(parameters.requires_grad_(), LAYERS)
    assert hard.dtype == torch.float64
    assert not hard.requires_grad
    parameters = parameters.detach()
    whole = torch.cat([parameters[:, :steps].round(), parameters[:, steps:]], dim=1)
    assert torch.equal(kernel.harden(whole, LAYERS), hard)
    torch.testing.assert_close(kernel.ratios(whole, LAYERS, 500.0), hard, rtol=0, atol=1e-12)
    for values, schedule in zip(whole.tolist(), hard.tolist(), strict=True):
        assert check_keep(schedule, LAYERS) == tuple(schedule)
        expected = torch.ones(LAYERS, dtype=torch.float64)
        for centre, logit in zip(values[:steps], values[steps:], strict=True):
            expected[int(centre) :] *= torch.tensor(logit, dtype=torch.float64).sigmoid()
        torch.testing.assert_close(torch.tensor(schedule, dtype=torch.float64), expected, rtol=0, atol=1e-12)


@every_kernel
def test_encoded_schedule_hardens_to_itself(name, steps):
    kernel = make_kernel(name, steps)
    for cuts in combinations(range(1, LAYERS), steps):
        schedule = [0.3 ** sum(cut <= layer for cut in cuts) for layer in range(LAYERS)]
        found = kernel.harden(kernel.encode(schedule, cuts), LAYERS)
        torch.testing.assert_close(found, torch.tensor(schedule).double(), rtol=0, atol=1e-6)


@every_kernel
def test_steps_left_over_cut_a_little_of_the_last_layer(name, steps):
    kernel = make_kernel(name, steps)
    parameters = kernel.encode([1.0] * 4 + [0.4] * 8, [4])
    assert torch.equal(kernel.project(parameters, LAYERS), parameters)
    expected = torch.tensor([1.0] * 4 + [0.4] * 7 + [0.4 * 0.98 ** (steps - 1)]).double()
    torch.testing.assert_close(kernel.harden(parameters, LAYERS), expected, rtol=0, atol=1e-6)


@every_kernel
def test_project_moves_only_what_is_illegal(name, steps):
    kernel = make_kernel(name, steps)
    wild = random_parameters(kernel)
    legal = kernel.project(wild, LAYERS)
    assert (legal[:, :steps] >= 1.0).all()
    assert (legal[:, :steps] <= LAYERS - 1.0).all()
    assert torch.equal(kernel.project(legal, LAYERS), legal)
    inside = (wild[:, :steps] >= 1.0) & (wild[:, :steps] <= LAYERS - 1.0)
    assert torch.equal(legal[:, :steps][inside], wild[:, :steps][inside])
    assert (kernel.harden(legal, LAYERS)[:, -1] < 1.0).all(), "every step still cuts somewhere"


@every_kernel
@pytest.mark.parametrize("extreme", [-1e6, 1e6])
def test_project_keeps_every_step_trainable(name, steps, extreme):
    """A step driven to keep nothing, or everything, still feels a gradient after the projection."""
    kernel = make_kernel(name, steps)
    for step in range(steps, 2 * steps):
        parameters = row([3.0] * steps, [0.5] * steps)
        parameters[step] = extreme
        legal = kernel.project(parameters, LAYERS).requires_grad_()
        kernel.ratios(legal, LAYERS, 3.0).sum().backward()
        assert legal.grad[step] > 1e-4


@every_kernel
def test_expresses_fastv(name, steps):
    """Half of the tokens dropped before layer 2; steps that are not needed have a factor of one."""
    kernel = make_kernel(name, steps)
    parameters = row([2.0] * steps, [0.5] + [1.0] * (steps - 1))
    expected = torch.tensor([1.0] * 2 + [0.5] * 30).double()
    torch.testing.assert_close(kernel.harden(parameters, 32), expected, rtol=0, atol=1e-6)


def test_three_steps_express_pyramid_drop():
    """Half of what is left at a quarter, a half and three quarters of the depth (arXiv 2410.17247)."""
    kernel = make_kernel("multistep", 3)
    schedule = kernel.harden(row([8.0, 16.0, 24.0], [0.5] * 3), 32)
    expected = torch.tensor([1.0] * 8 + [0.5] * 8 + [0.25] * 8 + [0.125] * 8).double()
    torch.testing.assert_close(schedule, expected, rtol=0, atol=1e-6)


def test_make_kernel_refuses():
    with pytest.raises(ConfigError, match=r"^kernel 'wave' is unknown; choose one of step, multistep$"):
        make_kernel("wave")
    with pytest.raises(ConfigError, match=r"^kernel\.steps = 0 is too small; give at least 1$"):
        make_kernel("multistep", 0)
