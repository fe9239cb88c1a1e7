"""VisionZip against the worked example and against the method, written out slowly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shares import quotas

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.visionzip import VisionZip, distances, rounded_share


def angles(*degrees):
    """Keys of two heads, whose mean is at these angles."""
    turned = torch.tensor(degrees).deg2rad()
    rows = torch.stack([turned.cos(), turned.sin()], dim=-1)
    apart = torch.tensor([3.0, -2.0])
    return torch.stack([rows + apart, rows - apart], dim=1)[None]


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


EXAMPLE = inputs_of([0.30, 0.05, 0.12, 0.25, 0.20, 0.08], angles(0.0, 10.0, 45.0, 90.0, 95.0, 170.0))


def merged(selector, inputs, count):
    """Kept tokens and their weights, of one sample."""
    choice = selector.merge(inputs, torch.tensor([count]))
    return choice.kept[0].nonzero()[:, 0].tolist(), choice.weights[0].tolist()


# --- worked example --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "part"), [("mean", 0.5), ("sum", 1.0)])
def test_example(rule, part):
    """Dominant 0 and 3; of 1, 2, 4, 5 the targets are 1 and 4; 2 goes to 1, and 5 to 4."""
    kept, weights = merged(VisionZip(0.5, rule), EXAMPLE, 4)
    assert kept == [0, 1, 3, 4]
    assert weights == [[1, 0, 0, 0, 0, 0], [0, part, part, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, part, part]]


def test_one_contextual_token_takes_in_all_others():
    kept, weights = merged(VisionZip(1 / 3, "mean"), EXAMPLE, 3)
    assert kept == [0, 1, 3]
    assert weights[1] == [0, 0.25, 0.25, 0, 0.25, 0.25]
    assert merged(VisionZip(1 / 3, "sum"), EXAMPLE, 3)[1][1] == pytest.approx([0, 1, 1 / 3, 0, 1 / 3, 1 / 3])
    assert merged(VisionZip(1.0, "mean"), EXAMPLE, 1) == ([0], [pytest.approx([1 / 6] * 6)])


@pytest.mark.parametrize("rule", ["mean", "sum"])
def test_tokens_that_were_merged_count_by_what_is_in_them(rule):
    sized = replace(EXAMPLE, sizes=torch.tensor([[1.0, 3.0, 1.0, 5.0, 2.0, 6.0]]))
    kept, weights = merged(VisionZip(1 / 3, rule), sized, 3)
    assert kept == [0, 1, 3]
    expected = [0, 3 / 12, 1 / 12, 0, 2 / 12, 6 / 12] if rule == "mean" else [0, 1, 1 / 9, 0, 2 / 9, 6 / 9]
    assert weights[1] == pytest.approx(expected)
    assert weights[2] == [0, 0, 0, 1, 0, 0], "a dominant token stays as it is"


def test_published_splits():
    assert rounded_share(VisionZip().contextual, torch.tensor([64, 128, 192])).tolist() == [10, 20, 30]


def test_small_counts_have_no_contextual_token():
    assert rounded_share(VisionZip().contextual, torch.tensor([0, 1, 2, 3, 4])).tolist() == [0, 0, 0, 0, 1]
    for count, dominant in ((1, [0]), (2, [0, 3]), (3, [0, 3, 4])):
        kept, weights = merged(VisionZip(), EXAMPLE, count)
        assert kept == dominant
        assert weights == torch.eye(6)[kept].tolist()


# --- oracle ----------------------------------------------------------------------------------------------------------


def cosine(u, v):
    lengths = np.linalg.norm(u) * np.linalg.norm(v)
    return float(u @ v) / lengths if lengths else 0.0


def oracle(inputs, sample, count, share, rule):
    """Rows of weights by kept token, in float64, one token at a time."""
    there = inputs.valid[sample].nonzero()[:, 0].tolist()
    row, size = inputs.tower_row[sample].double().numpy(), inputs.sizes[sample].double().numpy()
    keys = inputs.tower_keys[sample].double().numpy().mean(axis=1)
    image, place = inputs.images[sample].tolist(), inputs.places[sample].tolist()
    numbers = range(max(image, default=0) + 1)
    rows = {}
    for number, quota in zip(numbers, quotas(count, [sum(image[i] == n for i in there) for n in numbers]), strict=True):
        mine = [i for i in there if image[i] == number]
        contextual = int(quota * share + 0.5)
        best = sorted(mine, key=lambda i: (-row[i], i))[: quota - contextual]
        rest = sorted((i for i in mine if i not in best), key=lambda i: place[i])
        targets = [rest[step * (len(rest) // contextual)] for step in range(contextual)]
        for i in best:
            rows[i] = {i: 1.0}
        groups = {t: [] for t in targets}
        for j in rest:
            if targets and j not in targets:
                groups[max(sorted(targets), key=lambda t: cosine(keys[j], keys[t]))].append(j)
        for t, group in groups.items():
            if rule == "mean":
                rows[t] = {j: size[j] / sum(size[i] for i in [t, *group]) for j in [t, *group]}
            else:
                rows[t] = {t: 1.0, **{j: size[j] / sum(size[i] for i in group) for j in group}}
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


def test_thousand_random_cases():
    generator = torch.Generator().manual_seed(0)
    for case in range(50):
        inputs = random_inputs(20, case % 20, 3 + case % 3, generator)
        counts = (torch.rand(20, generator=generator) * (inputs.valid.sum(dim=1) + 1)).long()
        share, rule = (case % 7) / 6, ("mean", "sum")[case // 7 % 2]
        choice = VisionZip(share, rule).merge(inputs, counts)
        for sample, count in enumerate(counts.tolist()):
            expected = oracle(inputs, sample, count, share, rule)
            assert choice.kept[sample].nonzero()[:, 0].tolist() == sorted(expected)
            table = np.zeros(choice.weights.shape[1:])
            for number, token in enumerate(sorted(expected)):
                for part, weight in expected[token].items():
                    table[number, part] = weight
            np.testing.assert_allclose(choice.weights[sample].numpy(), table, atol=1e-6)


# --- properties ------------------------------------------------------------------------------------------------------


def test_means_are_means():
    generator = torch.Generator().manual_seed(1)
    inputs, counts = random_inputs(6, 30, 4, generator), torch.tensor([3, 5, 7, 9, 11, 13])
    sums = VisionZip(0.4).merge(inputs, counts).weights.sum(dim=2)
    assert torch.allclose(sums, (torch.arange(13) < counts[:, None]).float())


def test_dominant_tokens_are_nested_and_keys_choose_none():
    generator = torch.Generator().manual_seed(2)
    inputs = random_inputs(4, 30, 4, generator)
    last = torch.zeros_like(inputs.valid)
    for count in range(13):
        kept = VisionZip(0.0).choose(inputs, torch.full((4,), count))
        assert (kept >= last).all()
        last = kept
    other = replace(inputs, tower_keys=torch.randn(inputs.tower_keys.shape, generator=generator))
    counts = torch.full((4,), 12)
    before, after = (VisionZip(0.4).merge(given, counts) for given in (inputs, other))
    assert torch.equal(before.kept, after.kept)
    assert not torch.allclose(before.weights, after.weights)


def test_a_key_of_zeros_is_at_a_right_angle_to_all():
    """Targets 0 (key of zeros) and 3: what is nearer than a right angle to 3 goes there, and other tokens to 0."""
    keys = torch.tensor([[0.0, 0.0], [0.5, 0.8], [-0.1, 1.0], [1.0, 0.0], [0.0, 0.0], [0.1, 1.0]])[None, :, None]
    inputs = inputs_of([0.1] * 6, keys)
    kept, weights = merged(VisionZip(1.0, "sum"), inputs, 2)
    assert kept == [0, 3]
    assert weights == [[1, 0, 0.5, 0, 0.5, 0], [0, 0.5, 0, 1, 0, 0.5]]
    assert distances(keys[:, :1, 0], keys[:, 1:4, 0]).tolist() == [[[pytest.approx(2**0.5)] * 3]]


def test_ties_go_to_the_lower_index():
    inputs = inputs_of([0.2] * 6, torch.ones(1, 6, 2, 3))
    kept, weights = merged(VisionZip(0.5, "sum"), inputs, 4)
    assert kept == [0, 1, 2, 4]
    assert weights[2:] == [[0, 0, 1, 0.5, 0, 0.5], [0, 0, 0, 0, 1, 0]]


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_keys_are_refused_where_they_count(broken):
    keys = EXAMPLE.tower_keys.clone()
    keys[0, 2, 1, 0] = broken
    inputs = replace(EXAMPLE, tower_keys=keys)
    with pytest.raises(VispcoError, match="NaN"):
        merged(VisionZip(), inputs, 4)
    gone = replace(inputs, valid=torch.tensor([[True, True, False, True, True, True]]))
    assert not VisionZip(0.5).merge(gone, torch.tensor([4])).weights.isnan().any()


# --- cost and parameters ---------------------------------------------------------------------------------------------


def test_flops_are_those_of_cosines_and_of_merging():
    shape = DecoderShape(layers=1, hidden=7, heads=1, kv_heads=1, head_dim=5, mlp=1, vocabulary=1)
    cut = Cut(shape, tokens=100, visual=60, kept=20, question=8)
    assert VisionZip(0.25).own_flops(cut) == 2 * 60 * 5 * 5
    assert VisionZip(0.25).flops(cut) == 2 * 60 * 5 * 5 + 2 * 60 * 20 * 7


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"contextual": 1.01}, r"contextual = 1.01 is not a number in 0\.\.1"),
        ({"contextual": -0.1}, r"contextual = -0.1 is not a number in 0\.\.1"),
        ({"contextual": None}, r"contextual = None is not a number"),
        ({"rule": "max"}, r"rule = 'max' is unknown; choose one of mean, sum"),
        ({"rule": True}, r"rule = True is unknown"),
    ],
)
def test_parameters_that_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=rf"^selector parameter {message}"):
        VisionZip(**parameters)
