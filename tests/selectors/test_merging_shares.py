"""What merging methods share: quotas of images against a slow count, and weights of groups by hand."""

import torch
from shares import quotas

from vispco.selectors.merging import merge_groups, share_out


def test_quotas_are_the_slow_count_of_a_thousand_samples():
    """Images of very different sizes, so that small ones would get nothing by proportion alone."""
    generator = torch.Generator().manual_seed(0)
    spared = 0
    for _ in range(250):
        images = torch.bucketize(torch.arange(24), torch.tensor([2, 5, 20])).expand(4, -1)
        valid = torch.rand(4, 24, generator=generator) < torch.rand(4, 1, generator=generator)
        counts = (torch.rand(4, generator=generator) * (valid.sum(dim=1) + 1)).long()
        for row, quota in enumerate(share_out(counts, images, valid).tolist()):
            sizes = [int((valid[row] & (images[row] == image)).sum()) for image in range(4)]
            assert quota == quotas(int(counts[row]), sizes)
            spared += any(
                size and int(counts[row]) * size < sum(sizes) and had for size, had in zip(sizes, quota, strict=True)
            )
    assert spared > 100, "images that a plain proportion would leave without a token"


def test_quotas_of_nothing():
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    assert share_out(torch.tensor([0, 0]), nothing, nothing.bool()).tolist() == [[0], [0]]


def test_groups_by_hand():
    kept = torch.tensor([[False, True, False, True], [True, False, False, False]])
    target = torch.tensor([[1, 1, 3, 3], [0, 0, 0, 0]])
    share = torch.tensor([[0.25, 0.75, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0]])
    choice = merge_groups(kept, target, share)
    assert choice.weights.tolist() == [
        [[0.25, 0.75, 0, 0], [0, 0, 0, 1]],
        [[0.5, 0.5, 0, 0], [0, 0, 0, 0]],
    ]
    none = merge_groups(torch.zeros_like(kept), torch.zeros_like(target), torch.zeros_like(share))
    assert none.weights.shape == (2, 0, 4)
