"""FasterVLM: the tower's row, and nothing else."""

import numpy as np
import pytest
import torch

from vispco.errors import VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.fastervlm import FasterVLM

EXAMPLE = torch.tensor([[0.30, 0.05, 0.12, 0.25, 0.20, 0.08]])


def inputs_of(row, valid=None):
    return SelectorInputs(valid=torch.ones(row.shape, dtype=torch.bool) if valid is None else valid, tower_row=row)


@pytest.mark.parametrize(("count", "expected"), [(0, []), (2, [0, 3]), (3, [0, 3, 4]), (4, [0, 2, 3, 4])])
def test_worked_example(count, expected):
    kept = FasterVLM().choose(inputs_of(EXAMPLE), torch.tensor([count]))
    assert kept[0].nonzero()[:, 0].tolist() == expected


def test_thousand_random_cases():
    """Rows of few values, so that many tie."""
    generator = np.random.default_rng(0)
    for case in range(20):
        row = torch.from_numpy(generator.integers(0, 8, (50, case)) / 8).float()
        valid = torch.from_numpy(generator.random((50, case)) < 0.7)
        counts = torch.from_numpy(generator.integers(0, valid.sum(dim=1).numpy() + 1))
        kept = FasterVLM().choose(inputs_of(row, valid), counts)
        for sample in range(50):
            there = [j for j in range(case) if valid[sample, j]]
            best = sorted(there, key=lambda j: (-row[sample, j].item(), j))[: counts[sample]]
            assert kept[sample].nonzero()[:, 0].tolist() == sorted(best)


def test_tokens_that_are_no_patch_come_last():
    """They have zeros; attention is above."""
    row = EXAMPLE.clone()
    row[0, 0] = 0.0
    assert FasterVLM().ranks(inputs_of(row))[0].tolist() == [5, 4, 2, 0, 1, 3]


def test_needs_one_row_of_the_tower_and_no_products():
    assert FasterVLM.needs == {"tower_row"}


def test_nan_is_refused_where_it_counts():
    row = EXAMPLE.clone()
    row[0, 1] = torch.nan
    with pytest.raises(VispcoError, match="NaN"):
        FasterVLM().choose(inputs_of(row), torch.tensor([2]))
    gone = torch.tensor([[True, False, True, True, True, True]])
    assert FasterVLM().choose(inputs_of(row, gone), torch.tensor([2]))[0].nonzero()[:, 0].tolist() == [0, 3]
