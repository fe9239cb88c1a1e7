"""What every selector promises to the engine, and the ranking they share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import REGISTRY, SelectorInputs, make_selector, rank_tokens
from vispco.testing import SELECTORS

CASES = [(case.selector, parameters) for case in SELECTORS.values() for parameters in ({}, case.params)]
VALID = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0], [0] * 8]).bool()

every_selector = pytest.mark.parametrize(("name", "parameters"), CASES)


def signals(selector, valid, seed=0):
    """Random signals, and only those that the selector says it needs."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        "last_row": torch.rand(valid.shape, generator=generator),
        "sample_key": torch.randint(0, 2**32, valid.shape[:1], generator=generator),
    }
    assert selector.needs <= set(made), "a new signal: make it here"
    return SelectorInputs(valid=valid, **{name: made[name] for name in selector.needs})


def kept(selector, inputs, count):
    ranks = rank_tokens(selector.score(inputs), inputs.valid)
    return inputs.valid & (ranks < count)


def of_rows(inputs, index):
    parts = {name: value[index] for name, value in vars(inputs).items() if value is not None}
    return SelectorInputs(**parts)


@every_selector
def test_scores(name, parameters):
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID)
    scores = selector.score(inputs)
    assert scores.shape == VALID.shape
    assert scores.dtype == torch.float32
    assert torch.equal(scores, make_selector(name, parameters).score(signals(selector, VALID))), "not deterministic"


@every_selector
def test_kept_sets(name, parameters):
    """As many as asked for, nested, and never a token that is gone."""
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID)
    last = torch.zeros_like(VALID)
    for count in range(VALID.shape[1] + 1):
        now = kept(selector, inputs, count)
        assert now.sum(dim=1).tolist() == [min(count, total) for total in VALID.sum(dim=1).tolist()]
        assert (now >= last).all()
        assert (now <= VALID).all()
        last = now


@every_selector
def test_padding_and_company_change_nothing(name, parameters):
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID)
    junk = {"last_row": torch.full((len(VALID), 3), 9.0)}
    wider = {
        key: torch.cat([value, junk[key]], dim=1) if key in junk else value
        for key, value in vars(inputs).items()
        if value is not None and key != "valid"
    }
    padded = SelectorInputs(valid=torch.cat([VALID, torch.zeros(len(VALID), 3, dtype=torch.bool)], dim=1), **wider)
    for count in (1, 2, 4):
        alone = [kept(selector, of_rows(inputs, slice(row, row + 1)), count) for row in range(len(VALID))]
        assert torch.equal(torch.cat(alone), kept(selector, inputs, count))
        assert torch.equal(kept(selector, padded, count)[:, : VALID.shape[1]], kept(selector, inputs, count))


@every_selector
@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_few_tokens(name, parameters, tokens):
    selector = make_selector(name, parameters)
    inputs = signals(selector, torch.ones(3, tokens, dtype=torch.bool))
    for count in range(3):
        assert kept(selector, inputs, count).sum(dim=1).tolist() == [min(count, tokens)] * 3


@every_selector
def test_inputs_are_left_alone(name, parameters):
    selector = make_selector(name, parameters)
    inputs, same = signals(selector, VALID.clone()), signals(selector, VALID.clone())
    selector.score(inputs)
    for key, value in vars(inputs).items():
        assert value is getattr(same, key) is None or torch.equal(value, getattr(same, key))


# --- ranking ---------------------------------------------------------------------------------------------------------

tokens = st.tuples(st.sampled_from([-torch.inf, -1.0, -0.0, 0.0, 1e-8, 0.5, 1.0, torch.inf]), st.booleans())


@settings(deadline=None, max_examples=200)
@given(st.lists(tokens, max_size=12))
def test_rank_is_the_place_in_the_sorted_order(row):
    """Valid before invalid, higher before lower, earlier before later; scores of invalid tokens play no part."""
    scores = torch.tensor([score for score, _ in row]).reshape(1, -1)
    valid = torch.tensor([there for _, there in row], dtype=torch.bool).reshape(1, -1)
    best_first = sorted(range(len(row)), key=lambda i: (not row[i][1], -row[i][0] if row[i][1] else 0.0, i))
    ranks = rank_tokens(scores, valid)[0].tolist()
    assert [ranks[index] for index in best_first if row[index][1]] == list(range(sum(there for _, there in row)))
    assert sorted(ranks) == list(range(len(row)))


def test_ties_go_to_the_lower_index():
    ranks = rank_tokens(torch.full((2, 600), 0.25), torch.ones(2, 600, dtype=torch.bool))
    assert torch.equal(ranks, torch.arange(600).expand(2, -1))


def test_minus_infinity_is_before_invalid():
    scores = torch.tensor([[0.5, -torch.inf, 0.5, -torch.inf]])
    assert rank_tokens(scores, torch.tensor([[False, True, True, False]])).tolist()[0][1:3] == [1, 0]


def test_nan_is_refused_where_it_counts():
    scores = torch.tensor([[0.5, torch.nan, 0.1]])
    with pytest.raises(VispcoError, match="a selector returned NaN scores"):
        rank_tokens(scores, torch.tensor([[True, True, True]]))
    assert rank_tokens(scores, torch.tensor([[True, False, True]])).tolist() == [[0, 2, 1]]


# --- making ----------------------------------------------------------------------------------------------------------


def test_unknown_selector_and_parameter_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^selector 'oracle' is unknown; choose one of fastv, random$"):
        make_selector("oracle")
    for name in REGISTRY:
        with pytest.raises(ConfigError, match=rf"^selector '{name}' does not take parameters .*colour.*") as caught:
            make_selector(name, {"colour": 1})
        assert "\n" not in str(caught.value)
    assert isinstance(make_selector("fastv", None), REGISTRY["fastv"])
