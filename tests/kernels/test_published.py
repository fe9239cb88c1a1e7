"""Which kernel can express which published schedule, for 32 layers; docs/kernels.md holds the same table."""

from pathlib import Path

import pytest
import torch

from vispco.kernels import REGISTRY, make_kernel
from vispco.schedule import keep_counts
from vispco.selectors.fitprune import PUBLISHED, schedule

METHODS = {
    "FastV": (1.0,) * 2 + (0.5,) * 30,
    "PyramidDrop": (1.0,) * 8 + (0.5,) * 8 + (0.25,) * 8 + (0.125,) * 8,
    "VTW": (1.0,) * 15 + (0.0,) * 17,
    "uniform": (1.0,) + (128 / 576,) * 31,
    **{f"FitPrune {saved}": schedule(table) for saved, table in PUBLISHED.items()},
}
KERNELS = [
    ("step", 1), ("linear", 1), ("exponential", 1), ("logistic", 1), ("multistep_fixed", 4), ("multistep_fixed", 31),
    ("multistep", 2), ("multistep", 3), ("multistep", 8), ("multistep", 14), ("multistep", 16), ("multistep", 27),
    ("free", 1),
]  # fmt: skip
ONE_CUT = {"FastV", "VTW", "uniform"}
CAN = {
    ("step", 1): ONE_CUT,
    ("linear", 1): {"uniform"},
    ("exponential", 1): {"uniform"},
    ("logistic", 1): {"uniform"},
    ("multistep_fixed", 4): set(),
    ("multistep_fixed", 31): set(METHODS),
    ("multistep", 2): ONE_CUT,
    ("multistep", 3): ONE_CUT | {"PyramidDrop"},
    ("multistep", 8): ONE_CUT | {"PyramidDrop"},
    ("multistep", 14): ONE_CUT | {"PyramidDrop", "FitPrune 90"},
    ("multistep", 16): ONE_CUT | {"PyramidDrop", "FitPrune 90"},
    ("multistep", 27): set(METHODS),
    ("free", 1): set(METHODS),
}
"""What kernels with these numbers of steps can express."""


@pytest.fixture(scope="module")
def nearest():
    """Nearest member of every kernel to every method."""
    found = {}
    for name, steps in KERNELS:
        kernel = make_kernel(name, 32, steps)
        found[name, steps] = {method: kernel.harden(kernel.encode(keep)) for method, keep in METHODS.items()}
    return found


def test_every_kernel_is_in_the_table():
    assert {name for name, _ in KERNELS} == set(REGISTRY)
    assert CAN.keys() == set(KERNELS)
    assert len(METHODS) == 4 + len(PUBLISHED)


@pytest.mark.parametrize("tokens", [576, 2880])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel[0]}-{kernel[1]}")
def test_what_it_can_express_is_within_a_token(kernel, tokens, nearest):
    for method in CAN[kernel]:
        wanted, found = (keep_counts(keep, tokens) for keep in (METHODS[method], nearest[kernel][method]))
        assert (found - wanted).abs().max() <= 1, method


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel[0]}-{kernel[1]}")
def test_what_it_cannot_express_is_further_off(kernel, nearest):
    """By counts, and beyond doubt where even the mean square is above a token: no member's greatest can be less."""
    for method in set(METHODS) - CAN[kernel]:
        difference = nearest[kernel][method] - torch.tensor(METHODS[method]).double()
        counts = keep_counts(nearest[kernel][method], 576) - keep_counts(METHODS[method], 576)
        assert counts.abs().max() > 1, method
        assert 2880 * difference.square().mean().sqrt() > 1, method


def test_vtw_keeps_nothing_at_all(nearest):
    for kernel in KERNELS:
        if "VTW" in CAN[kernel]:
            assert keep_counts(nearest[kernel]["VTW"], 576).tolist() == [576] * 15 + [0] * 17


def test_page_has_these_numbers(nearest):
    lines = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    start = next(index for index, row in enumerate(rows) if row[:2] == ["kernel", "FastV"])
    assert rows[start][1:] == list(METHODS)
    page = {row[0]: [float(cell) for cell in row[1:]] for row in rows[start + 2 :]}
    expected = {
        (f"{name}, {steps} steps" if name.startswith("multistep") else name): [
            float((nearest[name, steps][method] - torch.tensor(keep).double()).abs().max()) * 576
            for method, keep in METHODS.items()
        ]
        for name, steps in KERNELS
    }
    assert page.keys() == expected.keys()
    for name, values in expected.items():
        assert page[name] == pytest.approx(values, abs=0.06), name


def test_page_describes_every_kernel():
    text = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text()
    assert [name for name in REGISTRY if f"\n| `{name}` |" not in text] == []
