"""What every selector promises to the engine, and the ranking they share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.errors import ConfigError, VispcoError
from vispco.selectors import REGISTRY, Knob, Merger, Nested, Scorer, SelectorInputs, make_selector, rank_tokens
from vispco.selectors.ranking import places_in
from vispco.testing import SELECTORS
from vispco.testing.signals import make_signals

CASES = [(case.selector, parameters) for case in SELECTORS.values() for parameters in ({}, case.params)]
VALID = torch.tensor([[1] * 9, [1, 1, 0, 1, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0], [0] * 9]).bool()
LAST = {"question_rows", "question_heads", "question_decay"}
"""Signals of the question whose last dimension is that of visual tokens."""
POSITIONAL = {"random", "uniform_grid", "window_fastv", "feather", "tome", "holov"}
"""Selectors to which a token's place matters."""

every_selector = pytest.mark.parametrize(("name", "parameters"), CASES, ids=lambda value: str(value))


def signals(selector, valid, seed=0):
    return make_signals(valid, selector.needs, seed)


def keep(selector, inputs, counts):
    """Kept tokens; ``counts`` is cut down to the valid ones, as the engine does."""
    wanted = torch.as_tensor(counts).expand(len(inputs.valid))
    return selector.choose(inputs, torch.minimum(wanted, inputs.valid.sum(dim=1)))


def changed(inputs, change):
    """Inputs with every signal of visual tokens changed."""
    parts = {name: value for name, value in vars(inputs).items() if value is not None}
    visual = inputs.valid.shape
    for name, value in parts.items():
        if name in LAST or (not name.startswith("question_") and value.shape[:2] == visual):
            parts[name] = change(value, value.dim() - 1 if name in LAST else 1)
    return SelectorInputs(**parts)


def of_rows(inputs, index):
    return SelectorInputs(**{name: value[index] for name, value in vars(inputs).items() if value is not None})


@every_selector
def test_as_many_as_asked_for_and_never_a_token_that_is_gone(name, parameters):
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID)
    for count in range(VALID.shape[1] + 1):
        now = keep(selector, inputs, count)
        assert now.dtype == torch.bool
        assert now.sum(dim=1).tolist() == [min(count, total) for total in VALID.sum(dim=1).tolist()]
        assert (now <= VALID).all()
    counts = torch.tensor([7, 2, 0, 0])
    assert keep(selector, inputs, counts).sum(dim=1).tolist() == counts.tolist(), "every sample has its own count"
    assert torch.equal(keep(selector, inputs, 4), keep(make_selector(name, parameters), signals(selector, VALID), 4))


@every_selector
def test_nested_selectors_keep_a_part_of_what_they_kept(name, parameters):
    selector = make_selector(name, parameters)
    if not isinstance(selector, Nested):
        pytest.skip("its set depends on the count")
    inputs = signals(selector, VALID)
    last = torch.zeros_like(VALID)
    for count in range(VALID.shape[1] + 1):
        now = keep(selector, inputs, count)
        assert (now >= last).all()
        last = now
    ranks = selector.ranks(inputs)
    assert ranks.sort(dim=1).values.tolist() == [list(range(VALID.shape[1]))] * len(VALID)
    assert torch.equal(VALID & (ranks < 3), keep(selector, inputs, 3)), "ranks and choices are one order"


@every_selector
def test_company_changes_nothing(name, parameters):
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID)
    for count in (1, 2, 4):
        alone = [keep(selector, of_rows(inputs, slice(row, row + 1)), count) for row in range(len(VALID))]
        assert torch.equal(torch.cat(alone), keep(selector, inputs, count))


@every_selector
def test_padding_and_dropped_tokens_change_nothing(name, parameters):
    """Signals of invalid tokens are arbitrary: others in their place, and more of them, keep the same tokens."""
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID)

    def disturb(value, axis):
        if value.dtype == torch.bool or value.dtype == torch.int64:
            return value
        shape = [1] * value.dim()
        shape[0], shape[axis] = VALID.shape
        return value.masked_fill(~VALID.reshape(shape), 7.5)

    def widen(value, axis):
        more = list(value.shape)
        more[axis] = 3
        return torch.cat([value, value.new_zeros(more)], dim=axis)

    disturbed, wider = changed(inputs, disturb), changed(inputs, widen)
    for count in (1, 2, 4):
        expected = keep(selector, inputs, count)
        assert torch.equal(keep(selector, disturbed, count), expected)
        assert torch.equal(keep(selector, wider, count)[:, : VALID.shape[1]], expected)


@every_selector
def test_permuted_tokens_are_kept_all_the_same(name, parameters):
    if name in POSITIONAL:
        pytest.skip("a token's place matters to it")
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID[:2])
    order = torch.randperm(VALID.shape[1], generator=torch.Generator().manual_seed(3))
    permuted = changed(inputs, lambda value, axis: value.index_select(axis, order))
    for count in (1, 2, 3, 5):
        assert torch.equal(keep(selector, permuted, count), keep(selector, inputs, count)[:, order])


@every_selector
@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_few_tokens(name, parameters, tokens):
    selector = make_selector(name, parameters)
    inputs = signals(selector, torch.ones(3, tokens, dtype=torch.bool))
    for count in range(tokens + 1):
        assert keep(selector, inputs, count).sum(dim=1).tolist() == [count] * 3


@every_selector
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0], ids=["zeros", "ones", "negative"])
def test_equal_tokens_and_empty_questions(name, parameters, value):
    """Duplicates of one token, zero vectors and no question: counts hold, and the lower index goes first in a score."""
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID)
    parts = {
        key: torch.full_like(part, value) if part.dtype == torch.float32 else part
        for key, part in vars(inputs).items()
        if part is not None
    }
    for empty in (False, True):
        if empty:
            parts["question_valid"] = torch.zeros_like(parts["question_valid"])
        same = SelectorInputs(**parts)
        for count in range(VALID.shape[1] + 1):
            assert keep(selector, same, count).sum(dim=1).tolist() == [
                min(count, total) for total in VALID.sum(dim=1).tolist()
            ]
        if isinstance(selector, Scorer) and name not in POSITIONAL:
            assert keep(selector, same, 2)[0].tolist() == [True, True] + [False] * 7


@every_selector
def test_nan_is_refused_where_it_counts(name, parameters):
    selector = make_selector(name, parameters)
    inputs = signals(selector, VALID)
    numbers = {key for key, part in vars(inputs).items() if part is not None and part.dtype == torch.float32}
    for key in sorted(number for number in numbers - {"sizes"} if not number.startswith("question_")):
        part = getattr(inputs, key).clone()
        part[0, 4] = torch.nan
        broken = SelectorInputs(**{**{k: v for k, v in vars(inputs).items() if v is not None}, key: part})
        with pytest.raises(VispcoError, match="NaN"):
            keep(selector, broken, 3)
        elsewhere = getattr(inputs, key).clone()
        elsewhere[1, 2] = torch.nan
        unread = SelectorInputs(**{**{k: v for k, v in vars(inputs).items() if v is not None}, key: elsewhere})
        assert keep(selector, unread, 3).sum() == 9


@every_selector
def test_inputs_are_left_alone(name, parameters):
    selector = make_selector(name, parameters)
    inputs, same = signals(selector, VALID.clone()), signals(selector, VALID.clone())
    keep(selector, inputs, 3)
    for key, value in vars(inputs).items():
        assert value is getattr(same, key) is None or torch.equal(value, getattr(same, key))


@every_selector
@settings(deadline=None, max_examples=25, derandomize=True)
@given(data=st.data())
def test_any_ragged_batch(name, parameters, data):
    """Counts, validity and independence of company, for any shape."""
    selector = make_selector(name, parameters)
    rows, tokens = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 12))
    valid = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=tokens, max_size=tokens), min_size=rows, max_size=rows))
    )
    valid = valid.reshape(rows, tokens).bool()
    counts = torch.tensor([data.draw(st.integers(0, int(row.sum()))) for row in valid])
    inputs = signals(selector, valid, data.draw(st.integers(0, 5)))
    chosen = selector.choose(inputs, counts)
    assert chosen.sum(dim=1).tolist() == counts.tolist()
    assert (chosen <= valid).all()
    for row in range(rows):
        alone = selector.choose(of_rows(inputs, slice(row, row + 1)), counts[row : row + 1])
        assert torch.equal(alone[0], chosen[row])


# --- merging ---------------------------------------------------------------------------------------------------------

MERGERS = [(name, parameters) for name, parameters in CASES if issubclass(REGISTRY[name], Merger)]
every_merger = pytest.mark.parametrize(("name", "parameters"), MERGERS, ids=lambda value: str(value))


def merge(name, parameters, inputs, counts):
    wanted = torch.minimum(torch.as_tensor(counts).expand(len(inputs.valid)), inputs.valid.sum(dim=1))
    return make_selector(name, parameters).merge(inputs, wanted)


@every_merger
def test_weights_are_those_of_kept_tokens_alone(name, parameters):
    inputs = signals(make_selector(name, parameters), VALID)
    for count in range(1, VALID.shape[1]):
        choice = merge(name, parameters, inputs, count)
        kept = choice.kept.sum(dim=1)
        assert choice.weights.shape == (len(VALID), int(kept.max()), VALID.shape[1])
        assert choice.weights.dtype == torch.float32
        for row, number in enumerate(kept.tolist()):
            assert not choice.weights[row, number:].any()
            assert not choice.weights[row][:, ~VALID[row]].any()
            own = choice.weights[row, torch.arange(number), choice.kept[row].nonzero()[:, 0]]
            assert (own > 0).all(), "a kept token is a part of itself"


@every_merger
def test_nothing_is_merged_where_everything_stays(name, parameters):
    inputs = signals(make_selector(name, parameters), VALID)
    choice = merge(name, parameters, inputs, VALID.shape[1])
    assert torch.equal(choice.kept, VALID)
    for row, kept in enumerate(VALID):
        assert torch.equal(choice.weights[row, : int(kept.sum())], torch.eye(len(kept))[kept])


@every_merger
def test_every_image_keeps_a_token(name, parameters):
    inputs = signals(make_selector(name, parameters), VALID)
    for count in range(2, VALID.shape[1]):
        for kept, valid, images in zip(merge(name, parameters, inputs, count).kept, VALID, inputs.images, strict=True):
            assert set(images[kept].tolist()) == set(images[valid].tolist())


@every_merger
def test_company_and_padding_change_no_weight(name, parameters):
    inputs = signals(make_selector(name, parameters), VALID)
    wider = changed(inputs, lambda value, axis: torch.cat([value, torch.zeros_like(value)], dim=axis))
    for count in (1, 3, 5):
        whole = merge(name, parameters, inputs, count)
        padded = merge(name, parameters, wider, count)
        assert torch.equal(padded.weights[:, :, : VALID.shape[1]], whole.weights)
        for row, number in enumerate(whole.kept.sum(dim=1).tolist()):
            alone = merge(name, parameters, of_rows(inputs, slice(row, row + 1)), count)
            assert torch.allclose(alone.weights[0], whole.weights[row, :number], atol=1e-6)


@every_merger
def test_merged_tokens_are_worth_what_is_in_them(name, parameters):
    """Merging a token that was merged before is as if its parts were merged now, where weights are means."""
    if name == "prumerge" or parameters.get("rule") == "sum":
        pytest.skip("its weights are no means")
    inputs = signals(make_selector(name, parameters), VALID)
    for count in (1, 3, 5):
        weights = merge(name, parameters, inputs, count).weights
        assert torch.allclose(weights.sum(dim=2)[weights.any(dim=2)], torch.tensor(1.0))


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(REGISTRY))
def test_knobs_are_its_parameters_and_bounded(name):
    kind = REGISTRY[name]
    for knob, of in kind.knobs.items():
        assert isinstance(of, Knob)
        for value in (of.low, of.high):
            make_selector(name, {knob: int(value) if of.whole else value})
        for bad in (of.low - 1, of.high + 1, "much", True):
            with pytest.raises(ConfigError, match=rf"parameter {knob} = .* is not a (whole )?number in"):
                make_selector(name, {knob: bad})
    assert kind.paper
    assert kind.complexity.startswith("O(")


def test_complete_orders_become_ranks():
    """Picks after the last valid token are arbitrary, repeats included."""
    valid = torch.tensor([[True, False, True, True], [False, True, False, False]])
    picks = torch.tensor([[2, 0, 3, 2], [1, 1, 0, 1]])
    assert places_in(picks, valid).tolist() == [[1, 3, 0, 2], [1, 0, 2, 3]]


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


def test_nan_scores_are_refused_where_they_count():
    scores = torch.tensor([[0.5, torch.nan, 0.1]])
    with pytest.raises(VispcoError, match="a selector met NaN"):
        rank_tokens(scores, torch.tensor([[True, True, True]]))
    assert rank_tokens(scores, torch.tensor([[True, False, True]])).tolist() == [[0, 2, 1]]


# --- making ----------------------------------------------------------------------------------------------------------


def test_unknown_selector_and_parameter_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^selector 'oracle' is unknown; choose one of fastv, .*random.*$"):
        make_selector("oracle")
    for name in REGISTRY:
        with pytest.raises(ConfigError, match=rf"^selector '{name}' does not take parameters .*colour.*") as caught:
            make_selector(name, {"colour": 1})
        assert "\n" not in str(caught.value)
    assert isinstance(make_selector("fastv", None), REGISTRY["fastv"])
