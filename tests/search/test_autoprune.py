"""AutoPrune's curve: worked examples, the information against the stock model, and budgets."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from builders import IMAGE, VISUAL, build_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from vispco.cost import FlopCost
from vispco.data import load_samples
from vispco.engine import Replay, load_checkpoint, observed_attention
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator
from vispco.schedule import check_keep
from vispco.search import cheapest_schedule, fit_curve, mean_information, retention
from vispco.search.autoprune import mutual_information, scaled_schedule
from vispco.selectors import make_selector

LAYERS = 8
MODEL = LlamaConfig(
    vocab_size=64, hidden_size=48, intermediate_size=80, num_hidden_layers=LAYERS, num_attention_heads=4
)
COST = FlopCost(MODEL, [(5, 100), (7, 100), (4, 60)], selection=1)

# --- the curve -------------------------------------------------------------------------------------------------------


def test_published_constants_by_hand():
    """32 layers: the middle is at layer 14.9 + k, and the slope at MI = 0.5 bits is 0.4 - 0.2 * 0.5."""
    curve = retention(32, 0.0)
    assert curve[15] == pytest.approx(1 / (1 + math.exp(0.4 * (15 - 15.3))))
    assert curve[1] == pytest.approx(0.99674, abs=1e-5)
    assert curve[31] == pytest.approx(0.00187, abs=1e-5)
    flatter = retention(32, 0.5)
    assert flatter[20] == pytest.approx(1 / (1 + math.exp(0.3 * (20 - 15.2))))
    assert retention(32, 2.0) == retention(32, 9.0) == [0.5] * 32, "no slope is left"


def test_other_depths_and_constants():
    assert retention(8, 0.3) == pytest.approx(retention(32, 0.3)[::4])
    assert retention(4, 1.0, x0=8.0, k0=0.5, gamma=0.3)[2] == pytest.approx(1 / (1 + math.exp(0.2 * (16 - 8.2))))


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        (0.5, [1.0, 1.0, 1 / 3, 1 / 6]),  # a sum of 1.5, of which 1 is spent
        (0.2, [1.0, 0.5, 0.2 / 3, 0.1 / 3]),  # no layer above 2.5 times the mean
        (0.9, [1.0, 1.0, 1.0, 0.7]),  # no layer above 1
        (1.0, [1.0] * 4),
    ],
)
def test_scaled_to_a_mean_by_hand(mean, expected):
    assert scaled_schedule([0.9, 0.8, 0.4, 0.1], mean) == pytest.approx(expected)


# --- information -----------------------------------------------------------------------------------------------------


def test_information_by_hand():
    told = torch.tensor([[True, True]])
    apart = torch.tensor([[0.5, 0.0], [0.0, 0.5]])  # half of the attention is on visual tokens, each on its own: 1 bit
    alike = torch.tensor([[0.3, 0.1], [0.3, 0.1]])
    assert mutual_information(apart[None, None], told).tolist() == pytest.approx([32 * 0.5])
    assert mutual_information(alike[None, None], told).tolist() == pytest.approx([0.0])
    assert mutual_information(torch.stack([apart, alike])[None], told).tolist() == pytest.approx([16 * 0.5])


def test_padding_and_empty_questions_tell_nothing():
    rows = torch.rand(1, 3, 4, 5)
    plain = mutual_information(rows, torch.ones(1, 4, dtype=torch.bool))
    padded = torch.zeros(1, 3, 6, 9)
    padded[:, :, :4, :5] = rows
    asked = torch.tensor([[True] * 4 + [False] * 2])
    assert mutual_information(padded, asked).tolist() == pytest.approx(plain.tolist())
    assert mutual_information(torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, dtype=torch.bool)).tolist() == [0.0, 0.0]
    assert mutual_information(torch.zeros(1, 3, 0, 5), torch.zeros(1, 0, dtype=torch.bool)).tolist() == [0.0]


class Samples:
    """An evaluator's share in the calibration: captured batches of a tiny model, and a list in place of the ledger."""

    def __init__(self, model, parts):
        self.charged = []
        self.replay = Replay(model, make_selector("sparsevlm_plus"))
        with observed_attention(self.replay.family):
            self.batches = [SimpleNamespace(captured=self.replay.capture(part)) for part in parts]

    def share(self, selector):
        return self

    def charge_layer(self, batch, kept):
        self.charged.append(kept.tolist())


def information_slowly(model, batch):
    """Sample by sample and head by head from the stock model's eager attention of layer 1."""
    seen = []
    decoder = model.model.language_model
    hook = decoder.layers[1].self_attn.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            model(**batch)
    finally:
        decoder.config._attn_implementation = before
        hook.remove()
    found = []
    for ids, real, heads in zip(batch["input_ids"], batch["attention_mask"], seen[0].double(), strict=True):
        images = (ids == IMAGE).nonzero()[:, 0].tolist()
        if not images:
            continue
        question = [place for place in range(images[-1] + 1, len(ids)) if real[place]]
        total = 0.0
        for head in heads:
            for y in images:
                mean = sum(float(head[x, y]) for x in question) / len(question)
                total += sum(float(head[x, y]) / len(question) * math.log2(head[x, y] / mean) for x in question)
        found.append(total * 32 / len(heads))
    return found


def test_information_is_that_of_the_stock_model(tiny_llava, ragged_batch):
    """Batches with one, two and no images, left padded; those without have no say in the mean."""
    parts = [ragged_batch, build_batch([(1, 3), (4, 6)], [1, 1], seed=2)]
    samples = Samples(tiny_llava, parts)
    expected = [value for part in parts for value in information_slowly(tiny_llava, part)]
    assert len(expected) == 5
    assert mean_information(samples) == pytest.approx(sum(expected) / 5, rel=1e-5)
    assert max(expected) > 1.2 * min(expected) > 0
    first = [VISUAL, 2 * VISUAL, 0, VISUAL]
    assert samples.charged == [first, first, [VISUAL] * 2, [VISUAL] * 2], "two unpruned layers each"


def test_samples_without_images_are_refused(tiny_llava):
    with pytest.raises(ConfigError, match="none of the calibration samples has one"):
        mean_information(Samples(tiny_llava, [build_batch([(2, 3)], [0])]))


# --- budgets ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.floats(0.0, 3.0), st.floats(0.0, 1.0), st.floats(-5.0, 40.0), st.floats(0.0, 1.5))
def test_budgets_hold_exactly_and_are_used(information, share, x0, k0):
    least = COST.exact(cheapest_schedule(LAYERS))
    budget = least + share * (1 - least)
    curve = retention(LAYERS, information, x0=x0, k0=k0)
    schedule = fit_curve(curve, COST, budget)
    assert check_keep(schedule, LAYERS) == schedule
    assert schedule[0] == 1.0
    assert COST.exact(schedule) <= budget
    assert COST.exact(schedule) > budget - 0.02, "within a token or so per layer"


def test_the_most_generous_one_with_the_shape_of_the_curve():
    curve = retention(LAYERS, 0.7)
    for budget in (0.4, 0.6, 0.8):
        schedule = fit_curve(curve, COST, budget)
        mean = sum(schedule[1:]) / (LAYERS - 1)
        assert schedule == pytest.approx(scaled_schedule(curve, mean), abs=3e-6)
        assert COST.exact([round(ratio, 5) for ratio in scaled_schedule(curve, mean * 1.002)]) > budget
        assert all(after <= before for before, after in pairwise(schedule))
    steep, flat = (fit_curve(retention(LAYERS, bits), COST, 0.5) for bits in (0.0, 2.0))
    assert steep[3] > flat[3]
    assert steep[7] < flat[7]
    assert len(set(flat[2:])) == 1


def test_the_ends_of_the_range():
    curve = retention(LAYERS, 0.7)
    assert fit_curve(curve, COST, 1.0) == (1.0,) * LAYERS
    least = COST.exact(cheapest_schedule(LAYERS))
    assert COST.exact(fit_curve(curve, COST, least)) == least
    with pytest.raises(ConfigError, match="below what a single token per image costs"):
        fit_curve(curve, COST, least - 1e-6)


# --- the embedded model ----------------------------------------------------------------------------------------------


def test_on_a_model():
    samples = load_samples("shapes", "validation", 12)
    evaluator = Evaluator(*load_checkpoint("micro-llava"), samples, batch_size=5)
    evaluator.ledger.forwards = 0.0
    information = mean_information(evaluator)
    assert 0 < information < 32
    assert evaluator.ledger.forwards == pytest.approx(12 * 2 / 8)
    whole = Evaluator(*load_checkpoint("micro-llava"), samples, "random", {"seed": 0})
    assert mean_information(whole) == pytest.approx(information, rel=1e-5), "neither batches nor selector matter"
