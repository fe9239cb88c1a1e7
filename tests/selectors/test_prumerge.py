"""PruMerge against worked examples and against the method, written out slowly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shares import quotas

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.covering import CHUNK
from vispco.selectors.prumerge import PruMerge, adaptive_count


def angles(*degrees):
    """Keys of two heads, each with one number of a vector at these angles."""
    turned = torch.tensor(degrees).deg2rad()
    return torch.stack([turned.cos(), turned.sin()], dim=-1)[None, :, :, None]


def inputs_of(row, keys, **others):
    row = torch.as_tensor(row)
    row = row[None] if row.dim() == 1 else row
    given = {
        "valid": torch.ones_like(row, dtype=torch.bool),
        "images": torch.zeros_like(row, dtype=torch.int64),
        "places": torch.arange(row.shape[1]).expand_as(row),
        "sizes": torch.ones_like(row),
    }
    return SelectorInputs(**{**given, **others}, tower_row=row, tower_keys=keys)


A = [0.30, 0.05, 0.12, 0.25, 0.20, 0.08]
EXAMPLE = inputs_of(A, angles(0.0, 10.0, 45.0, 90.0, 95.0, 170.0))


def merged(selector, inputs, count):
    """Kept tokens and their weights, of one sample."""
    choice = selector.merge(inputs, torch.tensor([count]))
    return choice.kept[0].nonzero()[:, 0].tolist(), choice.weights[0].tolist()


# --- worked examples -------------------------------------------------------------------------------------------------


def test_example():
    """Centres 0 and 3 with the two tokens nearest to each, and the extra token at 4, the best of the others."""
    kept, weights = merged(PruMerge(neighbours=2), EXAMPLE, 3)
    assert kept == [0, 3, 4]
    assert weights[0] == pytest.approx([1, A[1], A[2], 0, 0, 0])
    assert weights[1] == pytest.approx([0, 0, A[2], 1, A[4], 0])
    assert weights[2] == pytest.approx([0, A[1], A[2], 0, A[4], A[5]])


def test_example_without_the_extra_token():
    """Token 4 is a centre then, and centres are each other's neighbours."""
    kept, weights = merged(PruMerge(neighbours=2, extra=False), EXAMPLE, 3)
    assert kept == [0, 3, 4]
    assert weights[0] == pytest.approx([1, A[1], A[2], 0, 0, 0])
    assert weights[1] == pytest.approx([0, 0, A[2], 1, A[4], 0])
    assert weights[2] == pytest.approx([0, 0, A[2], A[3], 1, 0])


def test_one_token_is_a_centre():
    kept, weights = merged(PruMerge(), EXAMPLE, 1)
    assert kept == [0]
    assert weights == [pytest.approx([1, *A[1:]])]


@pytest.mark.parametrize(
    ("count", "spatial", "expected"),
    [
        (2, 1.0, [1, 4]),
        (3, 1.0, [1, 3, 5]),
        (4, 0.5, [0, 2, 3, 5]),
        (4, 0.25, [0, 2, 3, 4]),
        (5, 0.5, [0, 1, 3, 4, 5]),
        (6, 0.5, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_spatial_centres_are_the_middles_of_equal_runs(count, spatial, expected):
    """With 0 and 3 on top, the others are 1, 2, 4, 5; half of 5 centres are 3, rounded up."""
    assert merged(PruMerge(spatial=spatial, extra=False), EXAMPLE, count)[0] == expected


def test_spatial_centres_make_way_for_the_extra_token():
    """Of 4 tokens 3 are centres: 0 on top, 2 and 4 spread over 1 to 5; the extra one stands at 3."""
    kept, weights = merged(PruMerge(neighbours=0, spatial=0.6), EXAMPLE, 4)
    assert kept == [0, 2, 3, 4]
    assert weights[2] == pytest.approx([0, A[1], 0, A[3], 0, A[5]])


# --- oracle ----------------------------------------------------------------------------------------------------------


def cosine(u, v):
    lengths = np.linalg.norm(u) * np.linalg.norm(v)
    return float(u @ v) / lengths if lengths else 0.0


def oracle(inputs, sample, count, neighbours, spatial, extra):
    """Rows of weights by kept token, in float64, one token at a time."""
    there = inputs.valid[sample].nonzero()[:, 0].tolist()
    row = inputs.tower_row[sample].double().numpy()
    keys = inputs.tower_keys[sample].flatten(1).double().numpy()
    image, place = inputs.images[sample].tolist(), inputs.places[sample].tolist()
    numbers = range(max(image, default=0) + 1)
    rows = {}
    for number, quota in zip(numbers, quotas(count, [sum(image[i] == n for i in there) for n in numbers]), strict=True):
        mine = [i for i in there if image[i] == number]
        if quota == len(mine):
            rows |= {i: {i: 1.0} for i in mine}
            continue
        by_row = sorted(mine, key=lambda i: (-row[i], i))
        many = quota - 1 if extra and quota > 1 else quota
        uniform = int(spatial * many + 0.5)
        centres = by_row[: many - uniform]
        others = sorted((i for i in mine if i not in centres), key=lambda i: place[i])
        centres = centres + [others[(2 * step + 1) * len(others) // (2 * uniform)] for step in range(uniform)]
        for p in centres:
            near = sorted((j for j in mine if j != p), key=lambda j: (-cosine(keys[p], keys[j]), j))[:neighbours]
            rows[p] = {p: 1.0, **{j: row[j] for j in near}}
        if many < quota:
            rest = [i for i in by_row if i not in centres]
            rows[rest[0]] = {j: row[j] for j in rest}
    return rows


def random_inputs(samples, tokens, width, generator):
    return inputs_of(
        torch.randn(samples, tokens, generator=generator).softmax(dim=1),
        torch.randn(samples, tokens, 2, width, generator=generator) + 0.3,
        valid=torch.rand(samples, tokens, generator=generator) < 0.7,
        images=torch.randint(0, 3, (samples, tokens), generator=generator),
        places=torch.rand(samples, tokens, generator=generator).argsort(dim=1),
        sizes=torch.randint(1, 5, (samples, tokens), generator=generator).float(),
    )


def check(choice, inputs, counts, *parameters):
    for sample, count in enumerate(counts.tolist()):
        expected = oracle(inputs, sample, count, *parameters)
        assert choice.kept[sample].nonzero()[:, 0].tolist() == sorted(expected)
        table = np.zeros(choice.weights.shape[1:])
        for number, token in enumerate(sorted(expected)):
            for part, weight in expected[token].items():
                table[number, part] = weight
        np.testing.assert_allclose(choice.weights[sample].numpy(), table, atol=1e-6)


def test_thousand_random_cases():
    generator = torch.Generator().manual_seed(0)
    for case in range(50):
        inputs = random_inputs(20, case % 20, 2 + case % 3, generator)
        counts = (torch.rand(20, generator=generator) * (inputs.valid.sum(dim=1) + 1)).long()
        parameters = (0, 1, 3, 32)[case % 4], (case % 6) / 5, case % 5 > 1
        check(PruMerge(*parameters).merge(inputs, counts), inputs, counts, *parameters)


def test_more_tokens_than_a_chunk():
    generator = torch.Generator().manual_seed(1)
    inputs = random_inputs(2, 3 * CHUNK, 8, generator)
    counts = torch.tensor([CHUNK + 20, CHUNK - 20])
    check(PruMerge(4, 0.5).merge(inputs, counts), inputs, counts, 4, 0.5, True)


# --- properties ------------------------------------------------------------------------------------------------------


def test_no_neighbours_and_no_extra_token_is_pruning():
    generator = torch.Generator().manual_seed(2)
    inputs, counts = random_inputs(4, 30, 4, generator), torch.full((4,), 9)
    choice = PruMerge(neighbours=0, extra=False).merge(inputs, counts)
    assert torch.equal(choice.weights, torch.eye(30).expand(4, -1, -1)[choice.kept].reshape(4, 9, 30))


def test_an_extra_token_without_attention_stays_as_it_is():
    """Tokens that are no patch have no attention; a sum of nothing would leave no token at all."""
    inputs = inputs_of([0.5, 0.0, 0.3, 0.0], angles(0.0, 30.0, 60.0, 90.0))
    kept, weights = merged(PruMerge(neighbours=1), inputs, 3)
    assert kept == [0, 1, 2]
    assert weights[1] == [0, 1, 0, 0]


def test_a_key_of_zeros_is_at_a_right_angle_to_all():
    """Nearer than a right angle comes first, then the key of zeros, then what is farther."""
    keys = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.3, 0.9], [-0.1, 1.0]])[None, :, None]
    inputs = inputs_of([0.4, 0.1, 0.2, 0.3], keys)
    assert merged(PruMerge(neighbours=1), inputs, 1)[1] == [pytest.approx([1, 0, 0.2, 0])]
    assert merged(PruMerge(neighbours=2), inputs, 1)[1] == [pytest.approx([1, 0.1, 0.2, 0])]


def test_ties_go_to_the_lower_index():
    inputs = inputs_of([0.2] * 6, torch.ones(1, 6, 2, 3))
    kept, weights = merged(PruMerge(neighbours=2), inputs, 3)
    assert kept == [0, 1, 2]
    assert weights[0] == pytest.approx([1, 0.2, 0.2, 0, 0, 0])
    assert weights[1] == pytest.approx([0.2, 1, 0.2, 0, 0, 0])
    assert weights[2] == pytest.approx([0, 0, 0.2, 0.2, 0.2, 0.2])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_keys_are_refused_where_they_count(broken):
    keys = EXAMPLE.tower_keys.clone()
    keys[0, 2, 1, 0] = broken
    inputs = replace(EXAMPLE, tower_keys=keys, tower_row=EXAMPLE.tower_row.clone())
    with pytest.raises(VispcoError, match="NaN"):
        merged(PruMerge(), inputs, 3)
    inputs.tower_row[0, 2] = broken
    gone = replace(inputs, valid=torch.tensor([[True, True, False, True, True, True]]))
    assert PruMerge().merge(gone, torch.tensor([3])).weights.isfinite().all()


# --- adaptive count --------------------------------------------------------------------------------------------------


def test_adaptive_count_is_that_of_outliers():
    generator = torch.Generator().manual_seed(3)
    row = torch.rand(200, 40, generator=generator) ** 6
    valid = torch.rand(200, 40, generator=generator) < torch.rand(200, 1, generator=generator)
    found = adaptive_count(row.masked_fill(~valid, 0.3), valid).tolist()
    assert adaptive_count(row.masked_fill(~valid, torch.nan), valid).tolist() == found
    assert max(found) > 3
    for sample in range(200):
        own = row[sample][valid[sample]].double().numpy()
        low, high = np.percentile(own, [25, 75]) if len(own) else (0.0, 0.0)
        assert found[sample] == int((own > high + 1.5 * (high - low)).sum())


def test_adaptive_count_of_few_and_of_equal_tokens():
    for tokens in (0, 1, 2, 9):
        row = torch.full((2, tokens), 0.2)
        assert adaptive_count(row, torch.ones_like(row, dtype=torch.bool)).tolist() == [0, 0]
    # Quartiles 2 and 4, so that the limit is 7, which is no outlier itself.
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0, 7.0], [1.0, 2.0, 3.0, 4.0, 7.1]])
    assert adaptive_count(row, torch.ones_like(row, dtype=torch.bool)).tolist() == [0, 1]
    with pytest.raises(VispcoError, match="NaN"):
        adaptive_count(row / 0 * 0, row > 0)


# --- cost and parameters ---------------------------------------------------------------------------------------------


def test_flops_are_those_of_cosines_and_of_merging():
    shape = DecoderShape(layers=1, hidden=7, heads=1, kv_heads=1, head_dim=5, mlp=1, vocabulary=1)
    cut = Cut(shape, tokens=100, visual=60, kept=20, question=8)
    assert PruMerge().own_flops(cut) == 2 * 60 * 20 * 7
    assert PruMerge().flops(cut) == 2 * 2 * 60 * 20 * 7


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"neighbours": -1}, r"neighbours = -1 is not a whole number in 0\.\.256"),
        ({"neighbours": 2.0}, r"neighbours = 2.0 is not a whole number"),
        ({"spatial": 1.01}, r"spatial = 1.01 is not a number in 0\.\.1"),
        ({"spatial": "half"}, r"spatial = 'half' is not a number"),
        ({"extra": 1}, r"extra = 1 is unknown; choose true or false"),
        ({"extra": None}, r"extra = None is unknown; choose true or false"),
    ],
)
def test_parameters_that_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=rf"^selector parameter {message}"):
        PruMerge(**parameters)
