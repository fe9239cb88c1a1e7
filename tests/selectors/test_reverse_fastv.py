"""Reverse FastV against a worked example, a plain sort, and FastV."""

import numpy as np
import torch

from vispco.selectors import FastV, SelectorInputs
from vispco.selectors.reverse_fastv import ReverseFastV

ROW = torch.tensor([[0.08, 0.03, 0.10, 0.15, 0.05, 0.09]])
ALL = torch.ones(1, 6, dtype=torch.bool)


def kept(row, valid, count, selector=None):
    chosen = (selector or ReverseFastV()).choose(SelectorInputs(valid=valid, last_row=row), torch.tensor([count]))
    return set(chosen[0].nonzero()[:, 0].tolist())


def test_keeps_what_the_last_token_attends_to_least():
    assert kept(ROW, ALL, 3) == {0, 1, 4}
    assert kept(ROW, ALL, 1) == {1}


def test_ties_go_to_the_lower_index():
    assert kept(torch.full((1, 6), 0.1), ALL, 2) == {0, 1}


def test_agrees_with_a_plain_sort():
    random = np.random.default_rng(0)
    rows = random.permuted(np.tile(np.linspace(0.01, 1, 14, dtype=np.float32), (1000, 1)), axis=1)
    valid = random.random((1000, 14)) < 0.7
    counts = [int(random.integers(0, there.sum() + 1)) for there in valid]
    inputs = SelectorInputs(valid=torch.tensor(valid), last_row=torch.tensor(rows))
    chosen = ReverseFastV().choose(inputs, torch.tensor(counts))
    for mine, row, there, count in zip(chosen, rows, valid, counts, strict=True):
        tokens = sorted((token for token in range(14) if there[token]), key=lambda token: row[token])
        assert mine.nonzero()[:, 0].tolist() == sorted(tokens[:count])


def test_keeps_what_fastv_drops():
    for count in range(7):
        assert kept(ROW, ALL, count) == set(range(6)) - kept(ROW, ALL, 6 - count, FastV())


def test_needs_the_attention_row_alone():
    assert ReverseFastV.needs == {"last_row"}
