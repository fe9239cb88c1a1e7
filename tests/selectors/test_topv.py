"""TopV against the transport written out slowly, and what its order of steps is for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.topv import TopV, spread
from vispco.testing.signals import WIDTH, make_signals


def square(side, hidden=None, normed=None):
    """One image of ``side`` x ``side`` tokens; all alike unless told."""
    hidden = torch.ones(side * side, 3) if hidden is None else hidden
    row, column = torch.arange(side * side) // side, torch.arange(side * side) % side
    return SelectorInputs(
        valid=torch.ones(1, side * side, dtype=torch.bool),
        places=torch.arange(side * side)[None],
        images=torch.zeros(1, side * side, dtype=torch.int64),
        hidden=hidden[None],
        normed=(hidden if normed is None else normed)[None],
        grid=torch.stack([row, column], dim=-1)[None],
    )


def kept(chosen):
    return [row.nonzero()[:, 0].tolist() for row in chosen]


def draw(generator, batch=50):
    """A ragged batch of up to three images each, tokens at any place of their grids."""
    visual, width = int(generator.integers(0, 14)), int(generator.integers(2, 7))
    valid = torch.from_numpy(generator.random((batch, visual)) < generator.random((batch, 1)) * 1.5)
    hidden, normed = (torch.from_numpy(generator.standard_normal((batch, visual, width))).float() for _ in range(2))
    inputs = SelectorInputs(
        valid=valid,
        places=torch.from_numpy(np.sort(generator.permuted(np.tile(np.arange(40), (batch, 1)), axis=1)[:, :visual])),
        images=torch.from_numpy(np.sort(generator.integers(0, 3, (batch, visual)))),
        hidden=hidden,
        normed=hidden + 0.5 * normed,
        grid=torch.from_numpy(generator.integers(0, 12, (batch, visual, 2))),
    )
    return inputs, torch.from_numpy(generator.integers(0, valid.sum(dim=1).numpy() + 1))


# --- slow twin -------------------------------------------------------------------------------------------------------

SETTINGS = [
    {},
    {"recover": 0.5, "iterations": 1},
    {"recover": 0.0, "centre_weight": 0.5, "iterations": 2},
    {"recover": 1.0, "sigma": 2.0},
    {"recover": 0.1, "spatial_weight": 3.0, "epsilon": 0.3},
]


def twin_importance(inputs, row, spatial_weight=1.0, centre_weight=0.01, sigma=10.0, epsilon=0.1, iterations=3):
    """Importance by token of one sample, one pair at a time, with factors instead of their logarithms."""
    tokens = inputs.valid[row].nonzero()[:, 0].tolist()
    hidden, normed = (x[row].double().numpy() for x in (inputs.hidden, inputs.normed))
    grid, images = inputs.grid[row].tolist(), inputs.images[row].tolist()

    def cost(i, j):
        feature = 1 - hidden[i] @ normed[j] / np.linalg.norm(hidden[i]) / np.linalg.norm(normed[j])
        near = math.exp(-(math.dist(grid[i], grid[j]) ** 2) / (2 * sigma**2)) if images[i] == images[j] else 0.0
        own = [grid[k] for k in tokens if images[k] == images[i]]
        centre = (max(y for y, _ in own) / 2, max(x for _, x in own) / 2)
        return feature + spatial_weight * (1 - near) + centre_weight * math.dist(grid[i], centre)

    kernel = {(i, j): math.exp(-cost(i, j) / epsilon) for i in tokens for j in tokens}
    marginal = 1 / max(len(tokens), 1)
    u, v = dict.fromkeys(tokens, 1.0), {}
    for iteration in range(iterations):
        if iteration:
            u = {i: marginal / sum(kernel[i, j] * v[j] for j in tokens) for i in tokens}
        v = {j: marginal / sum(u[i] * kernel[i, j] for i in tokens) for j in tokens}
    return {i: sum(u[i] * kernel[i, j] * v[j] for j in tokens) / marginal for i in tokens}


def twin_choice(importance, count, recover):
    """The most important ones, then walk over the others and take one whenever a full step has been made."""
    recovered = int(recover * count + 0.5 + 1e-9)
    best = sorted(importance, key=lambda i: (-importance[i], i))[: count - recovered]
    others = [i for i in sorted(importance) if i not in best]
    walked = len(others) // 2
    for i in others:
        walked += recovered
        if walked >= len(others):
            walked -= len(others)
            best.append(i)
    return sorted(best)


def test_agrees_with_a_slow_twin():
    generator = np.random.default_rng(0)
    compared = 0
    for case in range(20):
        (inputs, counts), settings = draw(generator), SETTINGS[case % len(SETTINGS)]
        selector = TopV(**settings)
        importance, chosen = selector.importance(inputs), kept(selector.choose(inputs, counts))
        recover = settings.get("recover", 0.25)
        for row, count in enumerate(counts.tolist()):
            expected = twin_importance(inputs, row, **{k: v for k, v in settings.items() if k != "recover"})
            for i, value in expected.items():
                assert importance[row, i].item() == pytest.approx(value, rel=1e-6)
            gaps = np.diff(sorted(expected.values()))
            if len(gaps) and gaps.min() < 1e-6:
                continue
            compared += 1
            assert chosen[row] == twin_choice(expected, count, recover)
    assert compared > 900


def test_two_tokens_by_hand():
    """Costs 0 and 1 for token 0, 0.5 and 0.25 for token 1, without any distance."""
    hidden = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.75, math.sqrt(1 - 0.5**2 - 0.75**2)]])
    normed = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    inputs = SelectorInputs(
        valid=torch.ones(1, 2, dtype=torch.bool),
        places=torch.tensor([[0, 1]]),
        images=torch.zeros(1, 2, dtype=torch.int64),
        hidden=hidden[None],
        normed=normed[None],
        grid=torch.tensor([[[0, 0], [0, 1]]]),
    )
    selector = TopV(recover=0, spatial_weight=0, centre_weight=0, epsilon=0.5, iterations=1)
    torch.testing.assert_close(selector.costs(inputs)[0].float(), torch.tensor([[0.0, 1.0], [0.5, 0.25]]))
    # Token 0 gets 1 / (1 + e^-1) of the first target and e^-2 / (e^-2 + e^-0.5) of the second.
    first = 1 / (1 + math.exp(-1)) + 1 / (1 + math.exp(1.5))
    torch.testing.assert_close(selector.importance(inputs), torch.tensor([[first, 2 - first]]))
    assert kept(selector.choose(inputs, torch.tensor([1]))) == [[1]]


# --- costs -----------------------------------------------------------------------------------------------------------


def test_distances_of_equal_tokens():
    """Features cost nothing; the centre of 3 x 3 is at (1, 1)."""
    inputs = square(3)
    costs = TopV(centre_weight=0.5, sigma=2.0, spatial_weight=3.0).costs(inputs)[0]
    assert costs[4, 4] == pytest.approx(0, abs=1e-9)
    assert costs[0, 0] == pytest.approx(0.5 * math.sqrt(2))
    assert costs[4, 0] == pytest.approx(3 * (1 - math.exp(-2 / 8)))
    assert costs[0, 4] - costs[4, 0] == pytest.approx(0.5 * math.sqrt(2)), "the centre is a cost of the source"
    apart = TopV(centre_weight=0, sigma=2.0, spatial_weight=3.0).costs(
        replace(inputs, images=torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, 1]]))
    )[0]
    assert apart[5, 6] == apart[0, 8] == pytest.approx(3), "between images it is as far as can be"
    assert apart[6, 7] == pytest.approx(3 * (1 - math.exp(-1 / 8)))


def test_every_image_has_a_centre_of_its_own():
    inputs = replace(square(4), images=torch.tensor([[0] * 8 + [1] * 8]))
    own = TopV(spatial_weight=0, centre_weight=1).costs(inputs)[0].diagonal()
    assert own[0] == pytest.approx(math.dist((0, 0), (0.5, 1.5)))
    assert own[8] == pytest.approx(math.dist((2, 0), (1.5, 1.5)))
    left = replace(inputs, valid=torch.tensor([[True] * 15 + [False]]) & (inputs.grid[..., 1] < 3))
    own = TopV(spatial_weight=0, centre_weight=1).costs(left)[0].diagonal()
    assert own[8] == pytest.approx(math.dist((2, 0), (1.5, 1.0))), "an image ends where its last token is"


# --- importance ------------------------------------------------------------------------------------------------------


def clusters():
    """A 12 x 12 image of four patches, and what a norm makes of its hidden states."""
    generator = torch.Generator().manual_seed(1)
    inputs = square(12)
    patch = (inputs.grid[0] // 6 * torch.tensor([2, 1])).sum(dim=-1)
    hidden = 2 * torch.randn(4, 32, generator=generator)[patch] + torch.randn(144, 32, generator=generator)
    return square(12, hidden, hidden / hidden.norm(dim=-1, keepdim=True) * torch.rand(32, generator=generator))


def test_importance_is_not_the_marginal():
    """Row sums after an update of u would all be 1, to the last digit of float32."""
    importance = TopV().importance(clusters())[0]
    assert importance.max() - importance.min() > 0.02
    assert len(importance.unique()) == 144
    assert importance.mean().item() == pytest.approx(1)


def test_more_iterations_even_it_out():
    extent = [TopV(iterations=n).importance(clusters())[0].std().item() for n in (1, 2, 3, 10, 50)]
    assert extent == sorted(extent, reverse=True)
    assert extent[0] > 10 * extent[2] > 50 * extent[4]


@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
def test_distance_to_the_centre_does_not_cancel(iterations):
    """It is the same towards all targets, and would cancel if u came first."""
    inputs = square(7)
    importance, without = (
        TopV(centre_weight=weight, sigma=3, iterations=iterations).importance(inputs)[0] for weight in (0.01, 0)
    )
    gain, away = importance - without, (inputs.grid[0] - 3).float().norm(dim=-1)
    assert gain[away == 0] == gain.max()
    assert gain[away < 2].mean() > 0 > gain[away > 3.5].mean()


def test_only_directions_count():
    inputs = make_signals(torch.ones(3, 12, dtype=torch.bool), TopV.needs)
    lengths = torch.arange(1.0, 13)[None, :, None]
    scaled = replace(inputs, hidden=inputs.hidden * lengths, normed=inputs.normed * lengths.flip(1))
    torch.testing.assert_close(TopV().importance(scaled), TopV().importance(inputs))


def test_what_is_not_there_plays_no_part():
    inputs, counts = draw(np.random.default_rng(7))
    gone = ~inputs.valid
    junk = replace(
        inputs,
        places=inputs.places.masked_fill(gone, 0),
        hidden=inputs.hidden.masked_fill(gone[..., None], torch.nan),
        normed=inputs.normed.masked_fill(gone[..., None], torch.inf),
        grid=inputs.grid.masked_fill(gone[..., None], 999),
    )
    assert torch.equal(TopV().importance(junk), TopV().importance(inputs))
    assert torch.equal(TopV().choose(junk, counts), TopV().choose(inputs, counts))


def test_ties_go_to_the_lower_index():
    """The corners of a square are alike, and so are all tokens of two images of one token each."""
    assert kept(TopV(recover=0).choose(square(2), torch.tensor([2]))) == [[0, 1]]
    importance = TopV(sigma=2).importance(square(5))[0]
    assert len({importance[i].item() for i in (0, 4, 20, 24)}) == 1
    lone = replace(square(2), images=torch.arange(4)[None], grid=torch.zeros(1, 4, 2, dtype=torch.int64))
    assert kept(TopV(recover=0).choose(lone, torch.tensor([3]))) == [[0, 1, 2]]


@pytest.mark.parametrize("name", ["hidden", "normed"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_numbers_are_refused(name, value):
    broken = torch.ones(1, 9, 3)
    broken[0, 4, 1] = value
    with pytest.raises(VispcoError, match="a selector met NaN"):
        TopV().choose(replace(square(3), **{name: broken}), torch.tensor([3]))


# --- recovery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", range(1, 15))
def test_spread_is_exact_and_even(total):
    places = torch.arange(total)[None].expand(total + 1, -1)
    chosen = spread(torch.arange(total + 1), places, torch.ones(total + 1, total, dtype=torch.bool))
    assert chosen.sum(dim=1).tolist() == list(range(total + 1))
    for row in kept(chosen)[1:]:
        steps = np.diff(row).tolist()
        assert max(steps, default=0) - min(steps, default=0) <= 1
        # What is left before the first and behind the last is at most half a step each.
        assert max(row[0], total - 1 - row[-1]) <= math.ceil(total / len(row) / 2)


def test_spread_goes_by_place_among_the_free():
    free = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1]]).bool()
    assert kept(spread(torch.tensor([3]), torch.arange(8)[None], free)) == [[0, 3, 6]]
    assert kept(spread(torch.tensor([1]), torch.arange(8)[None], free)) == [[3]]
    shuffled = torch.tensor([[7, 6, 5, 4, 3, 2, 1, 0]])
    assert kept(spread(torch.tensor([1]), shuffled, free)) == [[5]], "the third by place is token 5"


@pytest.mark.parametrize(
    ("recover", "count", "best"), [(0.25, 8, 6), (0.25, 1, 1), (0.25, 2, 1), (0.5, 7, 3), (0.29, 50, 35), (1.0, 5, 0)]
)
def test_how_many_are_recovered(recover, count, best):
    """The most important stay; the rest is spread over all others."""
    inputs = clusters()
    selector = TopV(recover=recover)
    chosen = selector.choose(inputs, torch.tensor([count]))
    first = selector.importance(inputs)[0].topk(best).indices
    others = torch.ones(1, 144, dtype=torch.bool)
    others[0, first] = False
    expected = spread(torch.tensor([count - best]), inputs.places, others)
    expected[0, first] = True
    assert torch.equal(chosen, expected)
    assert chosen.sum() == count


# --- cost and parameters ---------------------------------------------------------------------------------------------


def test_flops_are_those_of_its_products():
    inputs = make_signals(torch.ones(1, 9, dtype=torch.bool), TopV.needs)
    shape = DecoderShape(layers=1, hidden=WIDTH, heads=1, kv_heads=1, head_dim=WIDTH, mlp=1, vocabulary=1)
    with FlopCounterMode(display=False) as counter:
        TopV().choose(inputs, torch.tensor([7]))
    assert counter.get_total_flops() == TopV().own_flops(Cut(shape, tokens=14, visual=9, kept=7, question=3))


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("recover", 1.1, r"number in 0\.\.1"),
        ("spatial_weight", -1, r"number in 0\.\.10"),
        ("centre_weight", "much", r"number in 0\.\.10"),
        ("sigma", 0, r"number in 1\.\.100"),
        ("epsilon", 0, r"number in 0\.01\.\.10"),
        ("iterations", 0, r"whole number in 1\.\.50"),
        ("iterations", 2.5, r"whole number in 1\.\.50"),
    ],
)
def test_refused_parameters(name, value, legal):
    with pytest.raises(ConfigError, match=rf"^selector parameter {name} = .* is not a {legal}; choose one$"):
        TopV(**{name: value})
