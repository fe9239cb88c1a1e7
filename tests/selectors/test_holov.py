"""HoloV against a worked example and a slow twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vispco.cost import Cut, DecoderShape
from vispco.errors import ConfigError, VispcoError
from vispco.selectors import SelectorInputs
from vispco.selectors.fastervlm import FasterVLM
from vispco.selectors.holov import HoloV, runs, variances
from vispco.testing.signals import WIDTH, make_signals

ROW = torch.tensor([[0.30, 0.05, 0.12, 0.25, 0.20, 0.08]])


def inputs_of(row, embeddings=None, valid=None):
    if embeddings is None:
        embeddings = torch.randn(*row.shape, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(row.shape, dtype=torch.bool) if valid is None else valid
    return SelectorInputs(valid=valid, tower_row=row, embeddings=embeddings)


def kept(inputs, count, **parameters):
    return HoloV(**parameters).choose(inputs, torch.tensor([count]))[0].nonzero()[:, 0].tolist()


# --- worked example --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, 0.09, 1])
def test_worked_example(alpha):
    """Scores 0.47 and 0.53 of the two crops; of 3 tokens they get 1 and 2."""
    inputs = inputs_of(ROW)
    assert HoloV(2, alpha).quotas(inputs, torch.tensor([3])).tolist() == [[1, 2]]
    assert kept(inputs, 3, crops=2, alpha=alpha) == [0, 3, 4]


def test_what_is_left_over_goes_to_the_heaviest():
    """Shares 1.2, 0.5 and 0.3 of 2 tokens: the second one goes to the first crop too, not to the largest remainder."""
    row = torch.tensor([[0.6, 0.6, 0.25, 0.25, 0.15, 0.15]])
    assert HoloV(3).quotas(inputs_of(row), torch.tensor([2])).tolist() == [[2, 0, 0]]


def test_full_crops_pass_on_what_they_have_no_room_for():
    """Of 5 tokens, crop 0 is worth 4 and has 2; the other two share the rest 2 to 1."""
    row = torch.tensor([[0.8, 0.8, 0.12, 0.12, 0.08, 0.08]])
    assert HoloV(3).quotas(inputs_of(row), torch.tensor([5])).tolist() == [[2, 2, 1]]
    assert kept(inputs_of(row), 5, crops=3) == [0, 1, 2, 3, 4]


# --- alpha -----------------------------------------------------------------------------------------------------------


def test_alpha_has_no_effect():
    """On quotas or choices, with crops that are alike, crops of one token and crops without attention as well."""
    generator = torch.Generator().manual_seed(1)
    for case in range(60):
        valid = torch.rand(8, 40, generator=generator) < 0.2 + 0.8 * torch.rand(8, 1, generator=generator)
        row = (torch.rand(8, 40, generator=generator) * (3 + case % 3)).floor() / 4 if case % 2 else torch.rand(8, 40)
        embeddings = torch.randn(8, 40, 3, generator=generator)
        embeddings[:, 8:16] = embeddings[:, 8:9]
        inputs = inputs_of(row, embeddings, valid)
        counts = (valid.sum(dim=1) * torch.rand(8, generator=generator)).long()
        crops = 1 + case % 20
        plain = HoloV(crops, 0).quotas(inputs, counts)
        for alpha in (0.09, 1):
            assert torch.equal(HoloV(crops, alpha).quotas(inputs, counts), plain)
            assert torch.equal(HoloV(crops, alpha).choose(inputs, counts), HoloV(crops, 0).choose(inputs, counts))


def test_variances():
    generator = torch.Generator().manual_seed(2)
    unit = torch.nn.functional.normalize(torch.randn(2, 3, 5, 4, generator=generator), dim=-1)
    there = torch.rand(2, 3, 5, generator=generator) < 0.7
    got = variances(unit, there)
    for place in np.ndindex(2, 3, 5):
        others = [j for j in range(5) if j != place[2] and there[place[0], place[1], j]]
        cosines = [float(unit[place].double() @ unit[place[0], place[1], j].double()) for j in others]
        expected = np.var(cosines) if there[place] and len(others) > 1 else 0.0
        assert got[place].item() == pytest.approx(expected, abs=1e-7)


# --- slow twin -------------------------------------------------------------------------------------------------------


def twin(row, embeddings, count, number, alpha):
    """One sample by the formulas; kept indices."""
    crops, start = [], 0
    for p in range(number):
        size = len(row) // number + (p < len(row) % number)
        crops.append(list(range(start, start + size)))
        start += size
    scores = []
    for crop in crops:
        unit = [embeddings[j] / np.linalg.norm(embeddings[j]) for j in crop]
        spread = [np.var([unit[i] @ unit[j] for j in range(len(crop)) if j != i] or [0.0]) for i in range(len(crop))]
        own = [row[j] for j in crop]
        if len(crop) < 3:
            spread = [1.0] * len(crop)
        parts = [a + alpha * v * np.mean(own) / np.mean(spread) for a, v in zip(own, spread, strict=True)]
        scores.append(np.mean(parts) if crop else 0.0)
    quota = [0] * number
    while sum(quota) < count:
        fits = [p for p in range(number) if quota[p] < len(crops[p])]
        left, total = count - sum(quota), sum(scores[p] for p in fits)
        gets = {p: int(left * scores[p] / total) for p in fits}
        for p in sorted(fits, key=lambda p: -scores[p])[: left - sum(gets.values())]:
            gets[p] += 1
        for p in fits:
            quota[p] = min(quota[p] + gets[p], len(crops[p]))
    return {j for p in range(number) for j in sorted(crops[p], key=lambda j: -row[j])[: quota[p]]}


def test_thousand_random_cases():
    generator = np.random.default_rng(0)
    for case in range(25):
        tokens, number = int(generator.integers(0, 60)), int(generator.integers(1, 21))
        valid = generator.random((40, tokens)) < generator.random((40, 1)) * 1.5
        row = (generator.random((40, tokens)) ** 4 + 1e-3).astype(np.float32)
        embeddings = generator.standard_normal((40, tokens, 3)).astype(np.float32)
        counts = generator.integers(0, valid.sum(axis=1) + 1)
        alpha = (0.09, 1.0)[case % 2]
        inputs = inputs_of(*(torch.from_numpy(array) for array in (row, embeddings, valid)))
        chosen = HoloV(number, alpha).choose(inputs, torch.from_numpy(counts))
        for sample in range(40):
            places = valid[sample].nonzero()[0]
            signals = [array[sample, places].astype(np.float64) for array in (row, embeddings)]
            expected = twin(*signals, int(counts[sample]), number, alpha)
            assert set(chosen[sample].nonzero()[:, 0].tolist()) == {int(places[j]) for j in expected}


# --- crops -----------------------------------------------------------------------------------------------------------


def test_runs_are_of_equal_length_and_the_first_one_longer():
    valid = torch.ones(3, 11, dtype=torch.bool)
    valid[1, 2:9] = False
    valid[2] = False
    begins, ends = runs(valid, 4)
    assert (ends - begins).tolist() == [[3, 3, 3, 2], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert begins.tolist()[0] == [0, 3, 6, 9]


def test_equal_crops_tie_to_the_first():
    for value in (0.0, 0.3, 1.0):
        row = torch.full((1, 9), value)
        inputs = inputs_of(row, torch.ones(1, 9, 4))
        assert HoloV(3).quotas(inputs, torch.tensor([5])).tolist() == [[2, 2, 1]]
        assert kept(inputs, 5, crops=3) == [0, 1, 3, 4, 6]


def test_one_crop_and_crops_of_one_token():
    """Of one crop, the best stay. Of crops of one token, the best stay as long as no share is a whole token."""
    assert (
        kept(inputs_of(ROW), 3, crops=1)
        == FasterVLM().choose(inputs_of(ROW), torch.tensor([3]))[0].nonzero()[:, 0].tolist()
        == [0, 3, 4]
    )
    assert kept(inputs_of(ROW), 3, crops=6) == kept(inputs_of(ROW), 3, crops=64) == [0, 3, 4]


def test_order_of_tokens_matters():
    """Crops are runs: in another order, the tokens of 8 and 7 are a crop that is worth both, and the 9 goes."""
    row = torch.tensor([[9.0, 8.0, 7.0, 1.0, 1.0, 1.0]])
    assert kept(inputs_of(row), 2, crops=2) == [0, 1]
    assert kept(inputs_of(row[:, [0, 3, 4, 1, 2, 5]]), 2, crops=2) == [3, 4]


# --- broken numbers, cost and parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_embeddings_are_refused_where_they_count(broken):
    inputs = inputs_of(ROW)
    embeddings = inputs.embeddings.clone()
    embeddings[0, 5, 1] = broken
    inputs = replace(inputs, embeddings=embeddings)
    for alpha in (0, 0.09):
        with pytest.raises(VispcoError, match="NaN"):
            kept(inputs, 3, crops=2, alpha=alpha)
    gone = torch.tensor([[True] * 5 + [False]])
    assert len(kept(replace(inputs, valid=gone), 3, crops=2)) == 3


@pytest.mark.parametrize(("visual", "crops"), [(9, 3), (64, 16), (8, 8)])
def test_flops_are_those_of_its_products(visual, crops):
    inputs = make_signals(torch.ones(1, visual, dtype=torch.bool), HoloV.needs)
    shape = DecoderShape(layers=1, hidden=WIDTH, heads=1, kv_heads=1, head_dim=WIDTH, mlp=1, vocabulary=1)
    selector = HoloV(crops)
    with FlopCounterMode(display=False) as counter:
        selector.choose(inputs, torch.tensor([5]))
    assert counter.get_total_flops() == selector.own_flops(Cut(shape, visual + 5, visual, 5, 5))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"crops": 0}, r"crops = 0 is not a whole number in 1\.\.64; choose one$"),
        ({"crops": 65}, "crops = 65 is not a whole number"),
        ({"crops": 4.0}, "crops = 4.0 is not a whole number"),
        ({"alpha": -0.1}, r"alpha = -0.1 is not a number in 0\.\.1"),
        ({"alpha": 1.5}, "alpha = 1.5 is not a number"),
        ({"alpha": "much"}, "alpha = 'much' is not a number"),
    ],
)
def test_parameters_that_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=rf"^selector parameter {message}"):
        HoloV(**parameters)
