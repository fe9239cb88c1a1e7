"""FastV against a worked example."""

import torch

from vispco.selectors import FastV, SelectorInputs, rank_tokens

ROW = torch.tensor([[0.08, 0.03, 0.10, 0.15, 0.05, 0.09]])
ALL = torch.ones(1, 6, dtype=torch.bool)


def kept(row, valid, count):
    ranks = rank_tokens(FastV().score(SelectorInputs(valid=valid, last_row=row)), valid)
    return set((ranks < count)[0].nonzero()[:, 0].tolist())


def test_keeps_what_the_last_token_attends_to():
    assert kept(ROW, ALL, 3) == {2, 3, 5}
    assert kept(ROW, ALL, 1) == {3}
    assert kept(ROW, ALL, 4) == {0, 2, 3, 5}


def test_a_token_that_is_gone_makes_room_for_the_next():
    without_best = ALL.clone()
    without_best[0, 3] = False
    assert kept(ROW, without_best, 3) == {0, 2, 5}


def test_needs_the_attention_row_alone():
    assert FastV.needs == {"last_row"}
