"""DART against a worked example and a slow twin."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.dart import DART, even_shares, take_least_similar
from vispco.testing.signals import QUESTION, WIDTH, make_signals


def directions(*degrees):
    """Unit vectors; mirror images are exact, so that equal cosines tie."""
    angles = np.deg2rad(np.array(degrees, dtype=np.float64))
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=-1).round(7)).float()


VISUAL = directions(0, 10, 45, 90, 95, 170)
ALL = torch.ones(1, 6, dtype=torch.bool)


def example(**changes):
    """Visual token 3 has the largest key; one text pivot at 20 degrees."""
    signals = {
        "keys": torch.tensor([1.0, 2, 3, 9, 5, 6])[None, :, None],
        "normed": VISUAL[None],
        "question_keys": torch.ones(1, 1, 1),
        "question_normed": directions(20)[None],
        "question_valid": torch.ones(1, 1, dtype=torch.bool),
    }
    return SelectorInputs(valid=ALL, **(signals | changes))


def kept(chosen):
    return [set(row.nonzero()[:, 0].tolist()) for row in chosen]


# --- worked example --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(1, {0, 3, 5}), (2, {0, 1, 3, 4, 5})])
def test_example(share, expected):
    """A visual pivot and ``share`` tokens for it and for the text pivot; a tie goes to the lower index."""
    chosen = DART(1, 1).choose(example(), torch.tensor([1 + 2 * share]))
    assert kept(chosen) == [expected]


def test_example_with_given_quotas():
    cosines = (directions(90, 20) @ VISUAL.T)[None]
    free = torch.tensor([[1, 1, 1, 0, 1, 1]]).bool()
    assert kept(take_least_similar(cosines, torch.tensor([[1, 1]]), free)) == [{0, 5}]
    assert kept(take_least_similar(cosines, torch.tensor([[2, 2]]), free)) == [{0, 1, 4, 5}]
    assert kept(take_least_similar(cosines, torch.tensor([[0, 3]]), free)) == [{5, 4, 2}]
    assert kept(take_least_similar(cosines, torch.tensor([[5, 0]]), free)) == [{0, 1, 2, 4, 5}]


def test_shares_are_even_and_the_first_get_one_more():
    turn = torch.arange(8).expand(5, -1)
    shares = even_shares(torch.tensor([128, 124, 3, 0, 7]), torch.tensor([8, 8, 8, 8, 0]), turn)
    assert shares[:4].tolist() == [[16] * 8, [16] * 4 + [15] * 4, [1] * 3 + [0] * 5, [0] * 8]


# --- slow twin -------------------------------------------------------------------------------------------------------


def twin(sample, count, visual_pivots, text_pivots):
    """One sample, written from the definition; arrays of valid tokens, indices among them."""
    keys, normed, question_keys, question_normed = sample

    def by_norm(rows):
        return sorted(range(len(rows)), key=lambda i: (-np.abs(rows[i]).sum(), i))

    texts = by_norm(question_keys)[:text_pivots]
    visuals = by_norm(keys)[: min(count, visual_pivots if texts else max(visual_pivots, 1))]
    pivots = [normed[i] for i in visuals] + [question_normed[i] for i in texts]
    kept, rest = list(visuals), count - len(visuals)
    for turn, pivot in enumerate(pivots):
        share = rest // len(pivots) + (1 if turn < rest % len(pivots) else 0)
        for _ in range(share):
            left = [i for i in range(len(normed)) if i not in kept]
            cosine = {i: normed[i] @ pivot / np.linalg.norm(normed[i]) / np.linalg.norm(pivot) for i in left}
            kept.append(min(left, key=lambda i: (cosine[i], i)))
    return set(kept)


def draw(generator, batch=50):
    """A ragged batch; the questions of some samples are empty."""
    visual, question, width = (int(generator.integers(low, high)) for low, high in [(1, 15), (0, 7), (2, 7)])
    valid = torch.from_numpy(generator.random((batch, visual)) < generator.random((batch, 1)) * 1.5)
    asked = torch.from_numpy(generator.random((batch, question)) < generator.random((batch, 1)) * 1.3)

    def rows(tokens):
        return torch.from_numpy(generator.standard_normal((batch, tokens, width))).float()

    signals = {"keys": rows(visual), "normed": rows(visual)}
    signals |= {"question_keys": rows(question), "question_normed": rows(question), "question_valid": asked}
    counts = torch.from_numpy(generator.integers(0, valid.sum(dim=1).numpy() + 1))
    return SelectorInputs(valid=valid, **signals), counts


def test_agrees_with_a_slow_twin():
    generator = np.random.default_rng(0)
    for _ in range(20):
        inputs, counts = draw(generator)
        visual_pivots, text_pivots = ((4, 4), (0, 3), (2, 0), (16, 16), (1, 2))[generator.integers(5)]
        chosen = DART(visual_pivots, text_pivots).choose(inputs, counts)
        assert not (chosen & ~inputs.valid).any()
        assert torch.equal(chosen.sum(dim=1), counts)
        for sample, got in enumerate(kept(chosen)):
            there, asked = inputs.valid[sample], inputs.question_valid[sample]
            signals = [(inputs.keys, there), (inputs.normed, there)]
            signals += [(inputs.question_keys, asked), (inputs.question_normed, asked)]
            arrays = [signal[sample][mask].double().numpy() for signal, mask in signals]
            places = there.nonzero()[:, 0].tolist()
            assert got == {places[i] for i in twin(arrays, int(counts[sample]), visual_pivots, text_pivots)}


# --- pivots ----------------------------------------------------------------------------------------------------------


def test_pivots_have_the_largest_sum_of_absolute_values():
    """Token 0 has the larger Euclidean norm, token 1 the larger sum."""
    keys = torch.tensor([[[3.0, 0, 0], [1.5, -1.5, 1.5], [0, 1, 0]]])
    inputs = example(keys=keys, normed=directions(0, 40, 90)[None])
    inputs = SelectorInputs(**{**vars(inputs), "valid": ALL[:, :3]})
    assert kept(DART(1, 0).choose(inputs, torch.tensor([1]))) == [{1}]


def test_visual_pivots_take_their_turn_before_text_pivots():
    """Both pivots want token 5 most; whoever comes second has to do without."""
    inputs = example(question_normed=directions(0)[None], keys=torch.tensor([9.0, 1, 1, 1, 1, 1])[None, :, None])
    assert kept(DART(1, 1).choose(inputs, torch.tensor([2]))) == [{0, 5}]
    assert kept(DART(1, 1).choose(inputs, torch.tensor([3]))) == [{0, 4, 5}]
    cosines = (directions(0, 90) @ VISUAL.T)[None]
    assert kept(take_least_similar(cosines, torch.tensor([[1, 1]]), ALL)) == [{5, 0}]
    assert kept(take_least_similar(cosines.flip(1), torch.tensor([[1, 1]]), ALL)) == [{0, 5}]


def test_fewer_tokens_than_pivots():
    inputs = example()
    for count in range(1, 7):
        chosen = DART(16, 16).choose(inputs, torch.tensor([count]))
        assert kept(chosen) == [set([3, 5, 4, 2, 1, 0][:count])]


def test_without_any_pivot_one_visual_pivot_takes_part():
    empty = example(question_valid=torch.zeros(1, 1, dtype=torch.bool))
    assert kept(DART(0, 4).choose(empty, torch.tensor([3]))) == kept(DART(1, 4).choose(empty, torch.tensor([3])))
    assert kept(DART(0, 4).choose(empty, torch.tensor([0]))) == [set()]
    asked = DART(0, 1).choose(example(), torch.tensor([2]))
    assert kept(asked) == [{5, 4}], "with a question, the text pivot alone decides"


def test_scale_of_states_plays_no_part():
    inputs = make_signals(torch.ones(3, 12, dtype=torch.bool), DART.needs)
    lengths = torch.arange(1.0, 13)[None, :, None]
    scaled = SelectorInputs(**{**vars(inputs), "normed": inputs.normed * lengths, "keys": inputs.keys * 8})
    counts = torch.tensor([7, 9, 10])
    assert torch.equal(DART().choose(inputs, counts), DART().choose(scaled, counts))


def test_order_of_tokens_plays_no_part():
    inputs = make_signals(torch.ones(3, 12, dtype=torch.bool), DART.needs)
    shuffle = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = SelectorInputs(**{**vars(inputs), "keys": inputs.keys[:, shuffle], "normed": inputs.normed[:, shuffle]})
    counts = torch.tensor([6, 9, 11])
    assert torch.equal(DART().choose(inputs, counts)[:, shuffle], DART().choose(moved, counts))


# --- degenerate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("tokens", [0, 1, 2, 9])
def test_equal_tokens_keep_the_counts(value, tokens):
    inputs = example(keys=torch.full((1, tokens, 3), value), normed=torch.full((1, tokens, 3), value))
    inputs = SelectorInputs(**{**vars(inputs), "valid": torch.ones(1, tokens, dtype=torch.bool)})
    inputs = SelectorInputs(**{**vars(inputs), "question_normed": torch.full((1, 1, 3), value)})
    for count in range(tokens + 1):
        chosen = DART().choose(inputs, torch.tensor([count]))
        assert chosen.sum() == count
        if value == 0.0:
            assert kept(chosen) == [set(range(count))], "ties go to the lower index"


@pytest.mark.parametrize("name", ["keys", "normed", "question_keys", "question_normed"])
def test_nan_is_refused_where_it_counts(name):
    broken = getattr(example(), name).clone()
    broken[0, 0, 0] = torch.nan
    inputs = example(**{name: broken})
    with pytest.raises(VispcoError, match="a selector met NaN"):
        DART().choose(inputs, torch.tensor([3]))


def test_what_stands_in_place_of_tokens_that_are_gone_plays_no_part():
    """More pivots than tokens, so that empty places stand in for pivots."""
    inputs = make_signals(torch.tensor([[True, False, True, True, False]]), DART.needs)
    inputs = SelectorInputs(**{**vars(inputs), "question_valid": torch.tensor([[True, False, True, False, False]])})
    broken = {}
    for name in ("keys", "normed", "question_keys", "question_normed"):
        mask = inputs.question_valid if name.startswith("question") else inputs.valid
        broken[name] = getattr(inputs, name).masked_fill(~mask[:, :, None], torch.nan)
    for count in range(4):
        expected = DART(2, 16).choose(inputs, torch.tensor([count]))
        assert torch.equal(
            DART(2, 16).choose(SelectorInputs(**{**vars(inputs), **broken}), torch.tensor([count])), expected
        )
        assert DART(16, 16).choose(SelectorInputs(**{**vars(inputs), **broken}), torch.tensor([count])).sum() == count


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("visual_pivots", "text_pivots"), [(4, 4), (0, 2), (16, 16), (1, 0)])
def test_flops_are_those_of_its_products(visual_pivots, text_pivots):
    inputs = make_signals(torch.ones(1, 9, dtype=torch.bool), DART.needs)
    shape = DecoderShape(layers=1, hidden=WIDTH, heads=1, kv_heads=1, head_dim=WIDTH, mlp=1, vocabulary=1)
    selector = DART(visual_pivots, text_pivots)
    with FlopCounterMode(display=False) as counter:
        selector.choose(inputs, torch.tensor([7]))
    assert counter.get_total_flops() == selector.own_flops(Cut(shape, tokens=14, visual=9, kept=7, question=QUESTION))


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["visual_pivots", "text_pivots"])
@pytest.mark.parametrize("value", [-1, 17, 2.5, True, "4", None])
def test_refused_parameters(name, value):
    with pytest.raises(ConfigError, match=rf"selector parameter {name} = .* is not a whole number in 0\.\.16"):
        DART(**{name: value})


def test_no_pivots_are_refused():
    with pytest.raises(ConfigError, match=r"visual_pivots = 0 and text_pivots = 0 leave no pivot; raise one of them"):
        DART(0, 0)
    assert (DART(16, 0).visual_pivots, DART(0, 16).text_pivots) == (16, 16)
