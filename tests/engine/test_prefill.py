"""Slots, masks and kept sets of one prefill, against loops that do the obvious."""

import pytest
import torch

from vispco.engine.gathering import gather_mask, gather_slots
from vispco.engine.prefill import Prefill, sample_keys
from vispco.errors import VispcoError
from vispco.selectors import Scorer, make_selector


class ByScore(Scorer):
    """Selector with given scores."""

    needs = frozenset()

    def __init__(self, scores):
        self.scores = scores

    def score(self, inputs):
        return self.scores.gather(1, inputs.places)


@pytest.fixture
def prefill():
    """Two samples of seven places; the second is padded on the left and has fewer visual tokens."""
    visual = torch.tensor([[0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0]], dtype=torch.bool)
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.5], [0.2, 0.7, 0.0, 0.0]])
    return Prefill(visual, real, torch.tensor([6, 6]), ByScore(scores), torch.tensor([0, 1]))


def test_visual_tokens_are_found_in_order(prefill):
    assert prefill.visual_slots[0].tolist() == [1, 2, 3, 4]
    assert prefill.visual_slots[1, :2].tolist() == [3, 4]
    assert prefill.alive.tolist() == [[True] * 4, [True, True, False, False]]


def test_a_cut_keeps_the_best_in_order_and_fills_on_the_left(prefill):
    hidden = torch.arange(14.0).view(2, 7, 1)
    out = prefill.cut(1, torch.tensor([2, 1]), hidden, {})
    assert prefill.slots.tolist() == [[0, 2, 4, 5, 6], [-1, 2, 4, 5, 6]]
    assert out[0, :, 0].tolist() == [0, 2, 4, 5, 6]
    assert out[1, 1:, 0].tolist() == [9, 11, 12, 13]
    again = prefill.cut(1, torch.tensor([1, 1]), out, {})
    assert prefill.slots.tolist() == [[0, 2, 5, 6], [2, 4, 5, 6]]
    assert again[0, :, 0].tolist() == [0, 2, 5, 6]
    full = prefill.scatter_back(again)[..., 0]
    assert full[0].tolist() == [0, 0, 2, 0, 0, 5, 6]
    assert full[1].tolist() == [0, 0, 9, 0, 11, 12, 13]


def test_each_of_two_images_has_a_leader():
    visual = torch.tensor([[0, 1, 1, 0, 1, 1, 0]], dtype=torch.bool)
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.2]])
    prefill = Prefill(visual, torch.ones_like(visual), torch.tensor([6]), ByScore(scores), torch.tensor([0]))
    ranks = prefill.ranks(prefill.inputs(1, torch.zeros(1, 7, 1), {}))
    assert ranks.tolist() == [[0, 2, 3, 1]]


def test_a_cut_that_drops_nothing_touches_nothing(prefill):
    hidden = torch.zeros(2, 7, 1)
    assert prefill.cut(1, torch.tensor([4, 3]), hidden, {}) is hidden
    assert prefill.slots is None


def test_forks_do_not_disturb_each_other(prefill):
    hidden = torch.arange(14.0).view(2, 7, 1)
    fork = prefill.fork()
    fork.cut(1, torch.tensor([1, 1]), hidden, {})
    assert prefill.slots is None
    prefill.cut(1, torch.tensor([3, 2]), hidden, {})
    assert prefill.slots.shape[1] == 6
    assert fork.slots.shape[1] == 4


def test_masks_are_gathered_like_a_loop_would(prefill):
    mask = torch.rand(2, 1, 7, 7) > 0.5
    slots = torch.tensor([[0, 2, 6], [-1, 3, 5]])
    ours = gather_mask(mask, slots, slots, torch.float32, True)
    for sample in range(2):
        for i, row in enumerate(slots[sample].tolist()):
            for j, column in enumerate(slots[sample].tolist()):
                if row >= 0 and column >= 0:
                    assert ours[sample, 0, i, j] == mask[sample, 0, row, column]
                elif row >= 0 or i == j:
                    assert ours[sample, 0, i, j] == (i == j), "fillers are seen by themselves and by nobody else"
    added = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    assert torch.equal(gather_mask(added, slots, slots, torch.float32, True) == 0, ours)


def test_without_a_mask_order_is_enough_until_there_are_fillers():
    ordered = torch.tensor([[0, 2, 6]])
    assert gather_mask(None, ordered, ordered, torch.float32, False) is None
    filled = torch.tensor([[-1, 2, 6]])
    mask = gather_mask(None, filled, filled, torch.float32, True)[0, 0]
    assert mask.tolist() == [[True, False, False], [False, True, False], [False, True, True]]


def test_gathering_broadcasts_a_shared_table():
    table = torch.arange(5.0).view(1, 5, 1)
    assert gather_slots(table, torch.tensor([[4, 0], [1, 1]]))[..., 0].tolist() == [[4, 0], [1, 1]]


def test_keys_depend_on_real_tokens_alone():
    ids = torch.tensor([[0, 0, 5, 6], [5, 6, 0, 0], [5, 7, 0, 0]])
    first, second, third = sample_keys(ids, ids > 0, torch.tensor([ids.shape[1] - 1] * 3)).tolist()
    assert first == second != third


def test_nothing_can_be_scored_before_the_first_layer(prefill):
    prefill.selector = make_selector("fastv")
    with pytest.raises(VispcoError, match="before the first layer"):
        prefill.cut(1, torch.tensor([1, 1]), torch.zeros(2, 7, 1), {})


def test_answers_have_no_say_in_a_sample_key():
    prompt = torch.tensor([[0, 5, 6, 7]])
    with_answer = torch.tensor([[0, 5, 6, 7, 8, 9], [0, 5, 6, 4, 8, 9]])
    alone = sample_keys(prompt, prompt > 0, torch.tensor([3]))
    answered, other = sample_keys(with_answer, with_answer > 0, torch.tensor([3, 3]))
    assert answered == alone[0]
    assert other != answered
