"""What every kernel promises, whatever its parameters."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vispco.errors import ConfigError
from vispco.kernels import REGISTRY, check_kernel, make_kernel
from vispco.schedule import check_keep

MATRIX = {
    "step": [1],
    "linear": [1],
    "exponential": [1],
    "logistic": [1],
    "multistep_fixed": [1, 2, 4],
    "multistep": [1, 2, 3],
    "free": [1],
}
"""Every kernel of the registry and the numbers of steps it is tested with."""

CASES = [(name, steps) for name, choices in MATRIX.items() for steps in choices]
LAYERS = 12
LEVELS = [0.9, 0.6, 0.35, 0.2, 0.1, 0.02]
SHARPNESS = (1.0, 3.0, 10.0, 30.0, 1e6)

every_kernel = pytest.mark.parametrize(("name", "steps"), CASES)


def legal_rows(kernel, number=100, dtype=torch.float64):
    """Parameters anywhere in their legal range."""
    low, high = kernel.bounds.to(dtype)
    generator = torch.Generator().manual_seed(kernel.size)
    return low + (high - low) * torch.rand(number, kernel.size, generator=generator, dtype=dtype)


def check_smooth(ratios, dtype):
    assert ratios.dtype == dtype
    assert (ratios[..., 0] == 1.0).all()
    assert (ratios >= 0.0).all()
    assert (ratios <= 1.0).all()
    # A sum or a sigmoid in floating point may rise by a rounding error where it falls on paper.
    assert (ratios.diff(dim=-1) <= 4 * torch.finfo(dtype).eps).all()


def test_matrix_covers_the_registry():
    assert set(MATRIX) == set(REGISTRY), "add the kernel to MATRIX, so that it is tested"


@pytest.mark.parametrize("name", REGISTRY)
def test_group_of_the_command_line(name):
    group = OmegaConf.load(Path(__file__).parents[2] / "conf" / "kernel" / f"{name}.yaml")
    assert group.name == name
    assert make_kernel(name, 8, group.get("steps", 1)).layers == 8


@every_kernel
@pytest.mark.parametrize("layers", [2, LAYERS])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_monotone_whatever_the_parameters(name, steps, layers, data):
    kernel = make_kernel(name, layers, min(steps, layers - 1))
    single = data.draw(st.booleans(), label="single precision")
    reach = data.draw(st.sampled_from([1.0, 2.0**5, 2.0**20, 2.0**126]), label="reach")
    number = st.floats(-reach, reach, width=32)
    values = data.draw(st.lists(number, min_size=kernel.size, max_size=kernel.size))
    dtype = torch.float32 if single else torch.float64
    row = torch.tensor(values, dtype=dtype)
    ratios = kernel.ratios(row, data.draw(st.sampled_from(SHARPNESS), label="sharpness"))
    assert ratios.shape == (layers,)
    check_smooth(ratios, dtype)
    hard = kernel.harden(row)
    assert hard.dtype == torch.float64
    assert check_keep(hard.tolist(), layers)[0] == 1.0
    legal = kernel.project(row)
    assert legal.dtype == dtype
    assert torch.equal(kernel.project(legal), legal)
    assert torch.equal(torch.where((row >= kernel.bounds[0]) & (row <= kernel.bounds[1]), row, legal), legal)
    check_smooth(kernel.ratios(legal, 3.0), dtype)


@every_kernel
def test_projection_only_moves_to_the_bounds(name, steps):
    kernel = make_kernel(name, LAYERS, steps)
    low, high = kernel.bounds
    assert (low < high).all()
    wide = torch.full((kernel.size,), 1e9)
    assert torch.equal(kernel.project(wide), high)
    assert torch.equal(kernel.project(-wide), low)


@every_kernel
def test_leading_dimensions(name, steps):
    kernel = make_kernel(name, LAYERS, steps)
    rows = legal_rows(kernel, 6)
    many = kernel.ratios(rows.reshape(2, 3, -1), 5.0)
    assert many.shape == (2, 3, LAYERS)
    for index, row in enumerate(rows):
        torch.testing.assert_close(many.flatten(0, 1)[index], kernel.ratios(row, 5.0), rtol=0, atol=1e-12)
        torch.testing.assert_close(kernel.harden(rows)[index], kernel.harden(row), rtol=0, atol=1e-12)
    assert kernel.harden(rows.reshape(2, 3, -1)).shape == (2, 3, LAYERS)
    assert kernel.project(rows.reshape(2, 3, -1)).shape == rows.reshape(2, 3, -1).shape


@every_kernel
def test_gradient_is_right(name, steps):
    kernel = make_kernel(name, LAYERS, steps)
    rows = legal_rows(kernel, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: kernel.ratios(p, 4.0), (rows,))
    assert not kernel.harden(rows).requires_grad


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sizes_stay_trainable_at_their_limits(name, steps, dtype):
    """Driven to keep nothing or everything, and projected back, a size still feels the sum of the ratios."""
    kernel = make_kernel(name, LAYERS, steps)
    start = kernel.starts(LEVELS).to(dtype)[0]
    for place in (kernel.rates == 0.15).nonzero()[:, 0].tolist():
        for extreme in (-1e6, 1e6):
            row = torch.where(torch.arange(kernel.size) == place, extreme, start)
            legal = kernel.project(row).requires_grad_()
            kernel.ratios(legal, 3.0).sum().backward()
            assert legal.grad.isfinite().all()
            assert legal.grad[place].abs() > 1e-3, (place, extreme)


@every_kernel
def test_rates_are_in_the_unit_of_their_parameter(name, steps):
    kernel = make_kernel(name, LAYERS, steps)
    positions = {"step": 1, "multistep": steps, "logistic": 1}.get(name, 0)
    assert kernel.rates.shape == (kernel.size,)
    assert kernel.rates.tolist() == pytest.approx([0.03] * positions + [0.15] * (kernel.size - positions))


@every_kernel
@pytest.mark.parametrize("layers", [2, 8, 32])
def test_starts_are_legal_distinct_and_spread(name, steps, layers):
    kernel = make_kernel(name, layers, min(steps, layers - 1))
    starts = kernel.starts(LEVELS)
    hard = kernel.harden(starts)
    assert torch.equal(starts, kernel.starts(LEVELS)), "starts are drawn anew"
    assert starts.dtype == torch.float32
    assert torch.equal(kernel.project(starts), starts)
    assert 1 < len(starts) <= 4000
    assert len({tuple(schedule) for schedule in hard.tolist()}) == len(starts)
    assert (hard[:, -1] < 1.0).all(), "a start that drops nothing"
    near = 1e-3
    for level in LEVELS:
        assert ((hard - level).abs() < near).any(), f"no start reaches {level}"


@every_kernel
def test_starts_may_keep_nothing(name, steps):
    kernel = make_kernel(name, LAYERS, steps)
    starts = kernel.starts([0.5, 0.0])
    assert starts.isfinite().all()
    assert torch.equal(kernel.project(starts), starts)
    assert (kernel.harden(starts)[:, -1] < 1e-3).any()


@every_kernel
@pytest.mark.parametrize("layers", [8, 32])
def test_encoded_schedule_hardens_to_itself(name, steps, layers):
    kernel = make_kernel(name, layers, steps)
    starts = kernel.starts(LEVELS)
    starts = starts[:: len(starts) // 6]
    for schedule in torch.cat([kernel.harden(legal_rows(kernel, 12)), kernel.harden(starts)]):
        row = kernel.encode(schedule.tolist())
        assert row.shape == (kernel.size,)
        assert torch.equal(kernel.project(row), row)
        torch.testing.assert_close(kernel.harden(row), schedule, rtol=0, atol=1e-6)


@every_kernel
def test_encoded_schedule_is_the_nearest_one(name, steps):
    """No other member is nearer in the mean square: none of the starts, none close by, none anywhere."""
    kernel = make_kernel(name, LAYERS, steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        drops = torch.rand(LAYERS, generator=generator, dtype=torch.float64) ** 3
        schedule = torch.cat([torch.ones(1).double(), 1 - drops[1:].cumsum(0) / drops.sum()])
        row = kernel.encode(schedule.tolist())
        near = row + 0.05 * torch.randn(2000, kernel.size, generator=generator)
        rivals = kernel.project(torch.cat([near, legal_rows(kernel, 4000).float(), kernel.starts(LEVELS)]))
        distance = (kernel.harden(torch.cat([row[None], rivals])) - schedule).square().sum(dim=1)
        assert distance[0] <= distance.min() + 1e-6


@every_kernel
def test_whole_schedule_is_expressed_and_can_still_be_left(name, steps):
    kernel = make_kernel(name, LAYERS, steps)
    row = kernel.encode([1.0] * LAYERS).requires_grad_()
    torch.testing.assert_close(kernel.harden(row), torch.ones(LAYERS).double(), rtol=0, atol=1e-6)
    kernel.ratios(row, 3.0).sum().backward()
    assert (row.grad.abs() > 1e-3).any()


def test_refused_before_a_checkpoint_is_opened():
    names = "step, linear, exponential, logistic, multistep_fixed, multistep, free"
    for check in (check_kernel, lambda name, steps=1: make_kernel(name, 8, steps)):
        with pytest.raises(ConfigError, match=rf"^kernel 'wave' is unknown; choose one of {names}$"):
            check("wave")
        with pytest.raises(ConfigError, match=r"^kernel\.steps = 0 is too small; give at least 1$"):
            check("multistep", 0)


@pytest.mark.parametrize("name", ["multistep", "multistep_fixed"])
def test_refused_for_a_decoder(name):
    assert make_kernel(name, 6, 5).steps == 5
    message = r"^kernel\.steps = 6 is too many for 6 decoder layers; give 1\.\.5$"
    with pytest.raises(ConfigError, match=message):
        make_kernel(name, 6, 6)


@pytest.mark.parametrize("name", REGISTRY)
def test_refused_without_a_layer_to_prune(name):
    with pytest.raises(
        ConfigError, match=r"^1 decoder layers leave nothing to prune, as layer 0 sees all; give a model of 2 or more$"
    ):
        make_kernel(name, 1)
