"""ToMe against a worked example and against the matching, written out slowly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs, make_selector
from vispco.selectors.tome import ToMe, plan_rounds


def directions(*degrees):
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)[None]


def inputs_of(hidden, images=None, sizes=None, valid=None):
    shape = hidden.shape[:2]
    return SelectorInputs(
        valid=torch.ones(shape, dtype=torch.bool) if valid is None else valid,
        images=torch.zeros(shape, dtype=torch.int64) if images is None else torch.as_tensor(images).expand(shape),
        sizes=torch.ones(shape) if sizes is None else sizes,
        hidden=hidden,
    )


EXAMPLE = inputs_of(directions(0.0, 10.0, 45.0, 90.0, 95.0, 170.0))


def random_inputs(samples, visual, width, generator, equals=False):
    """With ``equals``, tokens are few vectors again and again."""
    hidden = torch.randn(samples, visual, width, generator=generator) * 3
    if equals:
        of = torch.randint(3, (samples, visual), generator=generator)
        hidden = hidden.gather(1, of.clamp(max=max(visual - 1, 0))[..., None].expand(-1, -1, width))
    inputs = inputs_of(
        hidden,
        torch.randint(3, (samples, visual), generator=generator),
        1.0 + torch.randint(4, (samples, visual), generator=generator),
        torch.rand(samples, visual, generator=generator) < 0.8,
    )
    return inputs, (torch.rand(samples, generator=generator) * (inputs.valid.sum(dim=1) + 1)).long()


def cosine(a, b):
    """To the digits of float32, so that equals are equal."""
    return np.float32(float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)))


def oracle(vectors, images, sizes, count):
    """Kept tokens and the members of each, by one list of tokens per image."""
    queues = {}
    for token in sorted(vectors):
        queues.setdefault(images[token], []).append(token)
    queues = {image: queues[image] for image in sorted(queues)[:count]}
    members = {token: [token] for queue in queues.values() for token in queue}

    def mean(token):
        total = sum(sizes[t] for t in members[token])
        return sum(sizes[t] / total * vectors[t] for t in members[token])

    while len(members) > count:
        now = {token: mean(token) for token in members}
        edges = []
        for queue in queues.values():
            for a in queue[::2]:
                best = max(queue[1::2], key=lambda b: (cosine(now[a], now[b]), -b), default=None)
                if best is not None:
                    edges.append((-cosine(now[a], now[best]), a, best))
        for _, a, b in sorted(edges)[: len(members) - count]:
            members[b] += members.pop(a)
        queues = {image: [token for token in queue if token in members] for image, queue in queues.items()}
    return members


def members_of(inputs, *counts):
    """Per sample, what went into every kept token."""
    choice = ToMe().merge(inputs, torch.tensor(counts))
    found = []
    for kept, weights in zip(choice.kept, choice.weights, strict=True):
        tokens = kept.nonzero()[:, 0].tolist()
        found.append({token: weights[row].nonzero()[:, 0].tolist() for row, token in enumerate(tokens)})
    return found


def test_worked_example():
    """Edges 4-3, 0-1, 2-1 in this order, then between the means of what is left."""
    choice = ToMe().merge(EXAMPLE, torch.tensor([4]))
    assert choice.kept[0].nonzero()[:, 0].tolist() == [1, 2, 3, 5]
    half = [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 0, 1]]
    assert choice.weights[0].tolist() == half
    assert members_of(EXAMPLE, 5) == [{0: [0], 1: [1], 2: [2], 3: [3, 4], 5: [5]}]
    assert members_of(EXAMPLE, 3) == [{1: [0, 1, 2], 3: [3, 4], 5: [5]}]
    assert members_of(EXAMPLE, 2) == [{3: [0, 1, 2, 3, 4], 5: [5]}]


def test_means_are_weighted_by_size():
    """Round one merges 0 and 1, 2 and 3, 4 and 5; the first mean, at 40 degrees or near 0, decides round two."""
    hidden = directions(0.0, 80.0, 100.0, 100.0, 180.0, 170.0)
    assert members_of(inputs_of(hidden), 2) == [{3: [0, 1, 2, 3], 5: [4, 5]}]
    heavy = inputs_of(hidden, sizes=torch.tensor([[99.0, 1.0, 1.0, 1.0, 1.0, 1.0]]))
    assert members_of(heavy, 2) == [{1: [0, 1], 3: [2, 3, 4, 5]}]
    weights = ToMe().merge(heavy, torch.tensor([2])).weights[0]
    torch.testing.assert_close(weights[0], torch.tensor([0.99, 0.01, 0.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("equals", [False, True])
def test_thousand_random_cases(equals):
    generator = torch.Generator().manual_seed(int(equals))
    for case in range(50):
        inputs, counts = random_inputs(20, case % 24, 2 + case % 3, generator, equals)
        choice = ToMe().merge(inputs, counts)
        for sample, count in enumerate(counts.tolist()):
            there = inputs.valid[sample].nonzero()[:, 0].tolist()
            vectors = {token: inputs.hidden[sample, token].numpy().astype(np.float64) for token in there}
            sizes = inputs.sizes[sample]
            expected = oracle(vectors, inputs.images[sample].tolist(), sizes.tolist(), count)
            assert choice.kept[sample].nonzero()[:, 0].tolist() == sorted(expected)
            weights = torch.zeros(choice.weights.shape[1:])
            for row, token in enumerate(sorted(expected)):
                weights[row, expected[token]] = sizes[expected[token]] / sizes[expected[token]].sum()
            torch.testing.assert_close(choice.weights[sample], weights)


def test_images_keep_to_themselves():
    """The likest tokens are in different images, which merge their own; a lone token stays."""
    inputs = inputs_of(directions(0.0, 90.0, 0.0, 90.0, 0.0, 30.0), images=[0, 0, 1, 1, 2, 3])
    assert members_of(inputs, 4) == [{1: [0, 1], 3: [2, 3], 4: [4], 5: [5]}]
    assert members_of(inputs, 5) == [{1: [0, 1], 2: [2], 3: [3], 4: [4], 5: [5]}]
    # Fewer tokens than images: the first images keep theirs, the rest is in nobody.
    assert members_of(inputs, 3) == [{1: [0, 1], 3: [2, 3], 4: [4]}]
    assert members_of(inputs, 1) == [{1: [0, 1]}]
    assert members_of(inputs, 0) == [{}]


def test_images_split_by_their_own_order():
    """Which token of an image is first does not depend on the tokens around it, nor on those that are gone."""
    alone = members_of(inputs_of(directions(0.0, 80.0, 90.0)), 2)
    assert alone == [{0: [0], 1: [1, 2]}]
    mixed = inputs_of(directions(5.0, 0.0, 80.0, 90.0), images=[1, 0, 0, 0])
    assert members_of(mixed, 3) == [{0: [0], 1: [1], 2: [2, 3]}]
    gone = inputs_of(directions(80.0, 0.0, 80.0, 90.0), valid=torch.tensor([[False, True, True, True]]))
    assert members_of(gone, 2) == [{1: [1], 2: [2, 3]}]


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_equal_tokens_go_by_index(value):
    same = inputs_of(torch.full((1, 6, 3), value))
    assert members_of(same, 4) == [{1: [0, 1, 2], 3: [3], 4: [4], 5: [5]}]
    assert members_of(same, 2) == [{3: [0, 1, 2, 3, 4], 5: [5]}]


@pytest.mark.parametrize("width", [3, 64, 257])
def test_ties_do_not_depend_on_company_or_padding(width):
    """Many equal tokens, in small and large batches and at different places of a row."""
    inputs, counts = random_inputs(12, 90, width, torch.Generator().manual_seed(2), equals=True)
    whole = ToMe().merge(inputs, counts)
    for sample in range(12):
        there = inputs.valid[sample]
        alone = SelectorInputs(
            **{name: part[sample][there][None] for name, part in vars(inputs).items() if part is not None}
        )
        choice = ToMe().merge(alone, counts[sample : sample + 1])
        assert torch.equal(choice.kept[0], whole.kept[sample][there])
        assert torch.equal(choice.weights[0], whole.weights[sample, : counts[sample]][:, there])


def test_only_directions_within_a_sample_count():
    """One factor for all tokens, and one rotation, change nothing."""
    generator = torch.Generator().manual_seed(3)
    inputs, counts = random_inputs(10, 40, 6, generator)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    expected = ToMe().merge(inputs, counts)
    for hidden in (inputs.hidden * 1e-30, inputs.hidden * 1e30, inputs.hidden @ turn):
        choice = ToMe().merge(replace(inputs, hidden=hidden), counts)
        assert torch.equal(choice.kept, expected.kept)
        assert torch.equal(choice.weights, expected.weights)


def test_rounds():
    """Half of every image a round, the larger half first; only what is still to be done."""

    def rounds(images, *counts):
        images = torch.tensor(images).expand(len(counts), -1)
        return plan_rounds(torch.ones(images.shape, dtype=torch.bool), images, torch.tensor(counts))

    assert rounds([0] * 9, 9) == rounds([0] * 9) == []
    assert rounds([0] * 9, 8) == rounds([0] * 9, 4) == [(5, 4)]
    assert rounds([0] * 9, 1) == rounds([0] * 9, 9, 4, 1) == [(5, 4), (2, 2), (1, 1)]
    assert rounds([0, 0, 0, 1, 2, 2], 3) == [(3, 2)]
    assert rounds([0, 0, 0, 0, 1], 2) == [(2, 2), (1, 1)]
    assert len(rounds([0] * 576, 64)) == 4


def test_what_is_not_there_does_not_matter():
    inputs, counts = random_inputs(20, 20, 4, torch.Generator().manual_seed(4))
    gone = ~inputs.valid
    junk = replace(
        inputs,
        hidden=inputs.hidden.masked_fill(gone[..., None], torch.nan),
        sizes=inputs.sizes.masked_fill(gone, torch.nan),
        images=inputs.images.masked_fill(gone, 0),
    )
    plain, other = ToMe().merge(inputs, counts), ToMe().merge(junk, counts)
    assert torch.equal(other.kept, plain.kept)
    assert torch.equal(other.weights, plain.weights)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_broken_numbers_are_refused(broken):
    hidden = EXAMPLE.hidden.clone()
    hidden[0, 2, 1] = broken
    for count in (6, 3, 0):
        with pytest.raises(VispcoError, match="NaN"):
            ToMe().merge(inputs_of(hidden), torch.tensor([count]))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_few_tokens(samples, tokens):
    inputs = inputs_of(torch.randn(samples, tokens, 4))
    for count in range(tokens + 1):
        choice = ToMe().merge(inputs, torch.full((samples,), count))
        assert choice.kept.tolist() == [[False] * (tokens - count) + [True] * count] * samples
        assert choice.weights.shape == (samples, count, tokens)


@pytest.mark.parametrize(("visual", "kept"), [(9, 9), (9, 8), (9, 4), (9, 3), (9, 1), (9, 0), (1, 0), (24, 5)])
def test_flops_are_those_of_its_products(visual, kept):
    shape = DecoderShape(layers=1, hidden=7, heads=1, kv_heads=1, head_dim=7, mlp=1, vocabulary=1)
    hidden = torch.randn(1, visual, 7)
    with FlopCounterMode(display=False) as counter:
        ToMe().merge(inputs_of(hidden), torch.tensor([kept]))
    cut = Cut(shape, tokens=visual + 5.0, visual=float(visual), kept=float(kept), question=5.0)
    assert counter.get_total_flops() == ToMe().own_flops(cut)


def test_it_has_no_parameters():
    with pytest.raises(ConfigError, match=r"^selector 'tome' does not take parameters \{'r': 2\} .*$"):
        make_selector("tome", {"r": 2})
