"""PyramidDrop against a slow oracle and its published stages."""

import pytest
import torch

from vispco.errors import VispcoError
from vispco.schedule import keep_counts
from vispco.selectors import SelectorInputs
from vispco.selectors.pyramiddrop import PyramidDrop

ROW = torch.tensor([[0.08, 0.03, 0.10, 0.15, 0.05, 0.09]])
ALL = torch.ones(1, 6, dtype=torch.bool)


def kept(row, valid, counts):
    return PyramidDrop().choose(SelectorInputs(valid=valid, next_row=row), torch.as_tensor(counts))


def indices(mask):
    return set(mask[0].nonzero()[:, 0].tolist())


def test_keeps_what_the_last_token_would_attend_to_next():
    assert indices(kept(ROW, ALL, [3])) == {2, 3, 5}
    assert indices(kept(ROW, ALL, [1])) == {3}
    assert indices(kept(torch.full((1, 6), 0.1), ALL, [2])) == {0, 1}


def test_stages_halve_and_are_nested_though_each_has_its_own_scores():
    """576 -> 288, 144, 72."""
    valid, generator = torch.ones(1, 576, dtype=torch.bool), torch.Generator().manual_seed(0)
    for count in keep_counts([0.5, 0.25, 0.125], 576).tolist():
        row = torch.rand(1, 576, generator=generator)
        now = kept(row, valid, [count])
        assert now.sum() == count
        assert (now <= valid).all()
        assert row[now].min() > row[valid & ~now].max()
        valid = now
    assert valid.sum() == 72


@pytest.mark.parametrize("seed", range(10))
def test_choice_is_the_oracle_s(seed):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(100, 9, generator=generator) < torch.rand(100, 1, generator=generator) * 1.5
    row = torch.rand(100, 9, generator=generator).masked_fill(~valid, 1e30)
    counts = (torch.rand(100, generator=generator) * (valid.sum(dim=1) + 1)).long()
    chosen = kept(row, valid, counts)
    for sample in range(100):
        left = {j for j in range(9) if valid[sample, j]}
        while len(left) > counts[sample]:
            left.remove(min(left, key=lambda j: (float(row[sample, j]), -j)))
        assert indices(chosen[sample : sample + 1]) == left


def test_order_of_tokens_changes_nothing():
    turn = torch.tensor([4, 2, 0, 5, 1, 3])
    for count in range(7):
        assert torch.equal(kept(ROW[:, turn], ALL, [count]), kept(ROW, ALL, [count])[:, turn])


def test_nan_is_refused():
    with pytest.raises(VispcoError, match="NaN"):
        kept(torch.where(ROW > 0.14, torch.nan, ROW), ALL, [3])


def test_reads_the_row_of_the_next_layer_alone():
    assert PyramidDrop.needs == {"next_row"}
    assert PyramidDrop.knobs == {}
