"""FitPrune's fit: walks against a slow oracle, the bisection against brute force, and the embedded model."""

import math
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import IMAGE, PAD, VISUAL, build_tiny_llava
from hypothesis import given, settings
from hypothesis import strategies as st

from vispco.cost import FlopCost
from vispco.data import load_samples
from vispco.engine import Replay, load_checkpoint, observed_attention
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator, Ledger
from vispco.schedule import check_keep
from vispco.search import Calibration, FitPruneSearch, cheapest_schedule
from vispco.search import fitprune as module
from vispco.selectors import make_selector

LAYERS = 6
TEXTS, IMAGES = [(2, 5), (1, 7), (3, 4), (2, 9), (4, 3), (1, 6)], [1, 2, 0, 1, 3, 1]
TOLERANCES = (0.05, 0.2, 0.4, 0.7, 0.95, 1.0)


# --- walks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return build_tiny_llava(layers=LAYERS)


def draw_batch(texts, images):
    """Left-padded samples of ``texts[i]`` (before, after) words, ``images[i]`` images between, words between these."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for (before, after), number in zip(texts, images, strict=True):
        words = torch.randint(10, 64, (before + after + max(0, number - 1),), generator=generator).tolist()
        row = words[:before]
        for image in range(number):
            row += [IMAGE] * VISUAL + words[before + image : before + image + (image < number - 1)]
        rows.append(row + words[len(words) - after :])
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    pixels = {"pixel_values": torch.randn(sum(images), 3, 32, 32, generator=generator)} if sum(images) else {}
    return {"input_ids": ids, "attention_mask": real, **pixels}


class Samples:
    """An evaluator's share in a calibration: captured batches of a tiny model, and a list in place of the ledger."""

    def __init__(self, model, parts):
        self.seen, self.charged = [], []
        self.replay = Recording(model, make_selector("fitprune"))
        self.replay.seen = self.seen
        with observed_attention(self.replay.family):
            self.batches = [SimpleNamespace(captured=self.replay.capture(draw_batch(*part))) for part in parts]

    def share(self, selector):
        assert selector == "fitprune"
        return self

    def charge_layer(self, batch, kept):
        self.charged.append(int(kept.sum()))


class Recording(Replay):
    """Keeps which visual tokens ran."""

    def layer(self, index, hidden, prefill, captured):
        self.seen.append((index, prefill.alive))
        return super().layer(index, hidden, prefill, captured)


def calibrate(model, parts, tolerance):
    """Deletions, and the visual tokens that ran in every layer of the second pass, sample by sample."""
    samples = Samples(model, parts)
    with observed_attention(samples.replay.family), torch.no_grad():
        calibration = Calibration(samples)
        list(calibration.deletions(0.5))
        samples.seen.clear()
        samples.charged.clear()
        deletions = list(calibration.deletions(tolerance))
    assert samples.charged == [int(alive.sum()) for _, alive in samples.seen]
    ran = [[] for _ in range(LAYERS - 1)]
    for layer, alive in samples.seen:
        ran[layer] += [set(row.nonzero()[:, 0].tolist()) for row in alive]
    return deletions, ran


def prefix(mass, there, tolerance, reference):
    """Walk up from the least mass for as long as enough is left."""
    left, found = sum(mass[j] for j in there), set()
    for j in sorted(there, key=lambda j: (mass[j], -j)):
        left -= mass[j]
        if left < (1 - tolerance) * reference - 1e-9:
            break
        found.add(j)
    return found


def walk_slowly(model, inputs, images, tolerance, references=None):
    """One sample through the stock model: eager attention, tokens that are gone hidden as keys.

    Returns the visual tokens that run in each layer, and the sums of both masses in each layer.
    """
    places = [j for j, token in enumerate(inputs["input_ids"][0].tolist()) if token == IMAGE]
    question = range(places[-1] + 1, inputs["input_ids"].shape[1]) if places else []
    there, ran, sums = list(range(len(places))), [], []

    def hide(layer, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        gone = [place for number, place in enumerate(places) if number not in there]
        mask[..., gone] = torch.finfo(mask.dtype).min
        ran.append(set(there))
        return args, {**kwargs, "attention_mask": mask}

    def look(attention, args, output):
        nonlocal there
        most = output[1][0].double().numpy().max(axis=0)  # over heads
        own = {j: np.mean([most[places[q], places[j]] for q in there]) for j in there}
        cross = {j: sum(most[q, places[j]] for q in question) for j in there}
        sums.append((sum(own.values()), sum(cross.values())))
        if references is None:
            return
        wanted = references[len(sums) - 1]
        gone = prefix(own, there, tolerance, wanted[0]) & prefix(cross, there, tolerance, wanted[1])
        for image in range(images):
            members = [j for j in there if j // VISUAL == image]
            if gone.issuperset(members):
                gone.remove(max(members, key=lambda j: own[j] * cross[j]))
        there = [j for j in there if j not in gone]

    decoder = model.model.language_model
    hooks = [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in decoder.layers]
    hooks += [layer.self_attn.register_forward_hook(look) for layer in decoder.layers]
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    try:
        model(**inputs)
    finally:
        decoder.config._attn_implementation = before
        for hook in hooks:
            hook.remove()
    return ran, sums


def split(batch, images):
    """Samples of a batch, without their padding."""
    first = 0
    for ids, real, number in zip(batch["input_ids"], batch["attention_mask"].bool(), images, strict=True):
        one = {"input_ids": ids[real][None], "attention_mask": torch.ones(1, int(real.sum()), dtype=torch.long)}
        if number:
            one["pixel_values"] = batch["pixel_values"][first : first + number]
        yield one, number
        first += number


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_walk_is_that_of_the_stock_model_sample_by_sample(tiny, tolerance):
    """Ragged batches of one, two, three and no images; every token that runs, and the mean of what goes."""
    parts = [(TEXTS[:4], IMAGES[:4]), (TEXTS[4:], IMAGES[4:])]
    deletions, ran = calibrate(tiny, parts, tolerance)
    expected, shares = [], []
    with torch.no_grad():
        for texts, images in parts:
            for inputs, number in split(draw_batch(texts, images), images):
                _, references = walk_slowly(tiny, inputs, number, tolerance)
                sets, _ = walk_slowly(tiny, inputs, number, tolerance, references)
                expected.append(sets)
                if number:
                    shares.append([len(a - b) / (number * VISUAL) for a, b in pairwise(sets)])
    assert [list(layer) for layer in zip(*expected, strict=True)][: LAYERS - 1] == ran
    largest = max(IMAGES) * VISUAL
    assert deletions == [math.floor(share * largest + 1e-9) for share in np.mean(shares, axis=0)]
    assert sum(deletions) > 0
    different = {len(kept) / (number * VISUAL) for kept, number in zip(ran[2], IMAGES, strict=True) if number}
    assert len(different) > 1 or tolerance in (TOLERANCES[0], 1.0), "all lose the same, so a mean shows nothing"


def test_everything_goes_but_one_token_of_every_image(tiny):
    deletions, ran = calibrate(tiny, [(TEXTS[:3], [1, 2, 1])], 1.0)
    assert deletions == [30, 0, 0, 0, 0]
    assert [[len(kept) for kept in layer] for layer in ran] == [[16, 32, 16], *[[1, 2, 1]] * 4]


def test_the_last_layer_is_not_run(tiny):
    samples = Samples(tiny, [(TEXTS[:2], [1, 1])])
    with observed_attention(samples.replay.family), torch.no_grad():
        assert len(list(Calibration(samples).deletions(0.3))) == LAYERS - 1
    assert [layer for layer, _ in samples.seen] == [*range(LAYERS - 1)] * 2
    assert samples.charged[: LAYERS - 1] == [32] * (LAYERS - 1), "the unpruned run comes first"


def test_samples_without_images_delete_nothing(tiny):
    deletions, _ = calibrate(tiny, [(TEXTS[:2], [0, 0])], 1.0)
    assert deletions == [0] * (LAYERS - 1)


# --- budgets ---------------------------------------------------------------------------------------------------------

TOKENS = 40


class Toy:
    """Walks out of a table: ``deletions`` per layer at a tolerance; counts how far each has been followed."""

    layers, tokens = LAYERS, TOKENS

    def __init__(self, table):
        self.table, self.steps = table, {}
        self.evaluator = SimpleNamespace(replay=SimpleNamespace(family=None))

    def deletions(self, tolerance):
        assert tolerance not in self.steps, "one walk serves all budgets"
        self.steps[tolerance] = 0
        left = TOKENS - 1
        for wanted in self.table(tolerance):
            self.steps[tolerance] += 1
            yield min(int(wanted), left)
            left -= min(int(wanted), left)


def smooth(tolerance):
    """More tolerance deletes more, everything at 1."""
    return [TOKENS] * (LAYERS - 1) if tolerance == 1.0 else [60 * tolerance**2 / (layer + 1) for layer in range(5)]


def erratic(seed):
    """Walks that have nothing in common, but that everything goes at 1."""

    def table(tolerance):
        draw = np.random.default_rng([seed, int(tolerance * 1024)])
        return [TOKENS] * (LAYERS - 1) if tolerance == 1.0 else draw.integers(0, 14, LAYERS - 1)

    return table


@pytest.fixture(scope="module")
def cost():
    return FlopCost(build_tiny_llava(layers=LAYERS).config, [(10, TOKENS), (12, TOKENS)], selection=2)


@pytest.fixture(scope="module", autouse=True)
def without_model():
    """For the toys; a real family is observed."""
    real = module.observed_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "observed_attention", lambda family: real(family) if family else nullcontext())
        yield


def prefixes(cost, table, tolerance):
    """Cost and schedule after every layer of a whole walk."""
    gone, found = [0] * LAYERS, [(1.0, (1.0,) * LAYERS)]
    for layer, number in enumerate(Toy(table).deletions(tolerance)):
        gone[layer] = number
        keep = tuple((TOKENS - sum(gone[:place])) / TOKENS for place in range(LAYERS))
        found.append((cost.exact(keep), keep))
    return found


@pytest.mark.parametrize("budget", [0.42, 0.5, 0.6, 0.71, 0.8, 0.93, 1.0])
def test_the_least_tolerance_that_reaches_the_budget(cost, budget):
    """Against every tolerance on the grid that seven halvings can end on."""
    (result,) = FitPruneSearch(Toy(smooth), cost, [budget]).run()
    for step in range(1, 129):
        reached = [keep for spent, keep in prefixes(cost, smooth, step / 128) if spent <= budget]
        if reached:
            break
    assert result.tolerance == step / 128
    assert result.raw == reached[0], "the walk stops as soon as it is there"
    assert cost.exact(result.raw) <= cost.exact(result.schedule) <= budget


def test_the_bracket_says_how_close(cost):
    for bracket, halvings in ((0.3, 2), (0.1, 4), (0.001, 10)):
        (result,) = FitPruneSearch(Toy(smooth), cost, [0.7], bracket=bracket).run()
        assert result.tolerance * 2**halvings == int(result.tolerance * 2**halvings)
        close = FitPruneSearch(Toy(smooth), cost, [0.7], bracket=1e-4).run()[0].tolerance
        assert 0 <= result.tolerance - close <= 2**-halvings


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.floats(0.4, 1.0), min_size=2, max_size=8))
def test_budgets_hold_and_a_looser_one_never_keeps_less(cost, seed, budgets):
    """Whatever the walks are like."""
    results = FitPruneSearch(Toy(erratic(seed)), cost, budgets).run()
    assert [result.budget for result in results] == sorted(budgets)
    for result in results:
        assert check_keep(result.schedule, LAYERS) == result.schedule
        assert cost.exact(result.raw) <= result.budget
        assert cost.exact(result.schedule) <= result.budget
        assert min(result.schedule) > 0
        assert result.schedule[0] == 1.0
    for tight, loose in pairwise(results):
        assert sum(tight.schedule) <= sum(loose.schedule)


def test_a_tighter_budget_that_keeps_more_serves_the_looser_one_too(cost):
    """An early cut at a high tolerance, a late and deep one at a low tolerance that costs a little more."""

    def table(tolerance):
        return [TOKENS // 2, 0, 0, 0, 0] if tolerance >= 0.6 else [0, 0, 0, TOKENS - 1, 0]

    loose = cost.exact((1.0,) * 4 + (1 / TOKENS,) * 2)
    alone = FitPruneSearch(Toy(table), cost, [loose]).run()[0]
    first, second = FitPruneSearch(Toy(table), cost, [loose - 0.001, loose]).run()
    assert second.budget == loose
    assert second.schedule == first.schedule != alone.schedule
    assert sum(second.schedule) > sum(alone.schedule)


def test_the_rest_of_a_budget_is_filled_without_moving_cuts(cost):
    (result,) = FitPruneSearch(Toy(lambda tolerance: [0, 20 * (tolerance > 0.3), 0, 10, 0]), cost, [0.8]).run()
    assert cost.exact(result.raw) < 0.75
    for keep in (result.raw, result.schedule):
        assert [layer for layer in range(1, LAYERS) if keep[layer] < keep[layer - 1]] == [2]
    assert 0.8 - 1 / TOKENS < cost.exact(result.schedule) <= 0.8


def test_walks_are_shared_and_end_at_the_least_budget(cost):
    toy, reports = Toy(smooth), []
    FitPruneSearch(toy, cost, [0.9, 0.6], report=reports.append).run()
    assert reports == [1, 1]
    for tolerance, steps in toy.steps.items():
        spent = [price for price, _ in prefixes(cost, smooth, tolerance)]
        reached = [place for place, price in enumerate(spent) if price <= 0.6]
        assert steps == (reached[0] if reached else LAYERS - 1)
    assert min(toy.steps.values()) < LAYERS - 1


def test_a_budget_that_no_walk_reaches(cost):
    """Where some samples have to keep several tokens, the last resort is to keep fewer."""

    def table(tolerance):
        return [TOKENS - 5, 0, 0, 0, 0] if tolerance == 1.0 else [1] * 5

    least = cost.exact(cheapest_schedule(LAYERS))
    (result,) = FitPruneSearch(Toy(table), cost, [least + 0.01]).run()
    assert least <= cost.exact(result.schedule) <= least + 0.01 < cost.exact(result.raw)
    with pytest.raises(ConfigError, match="cannot cost as little as"):
        FitPruneSearch(Toy(table), cost, [least - 0.01]).run()


# --- the embedded model ----------------------------------------------------------------------------------------------

BUDGETS = (0.8, 0.5)


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava"), load_samples("shapes", "validation", 16)


def search(micro, **options):
    evaluator = Evaluator(*micro[0], micro[1], "fitprune", **options)
    evaluator.ledger.forwards = 0.0
    return FitPruneSearch(Calibration(evaluator), evaluator.cost(), BUDGETS, bracket=0.1).run(), evaluator


@pytest.fixture(scope="module")
def searched(micro):
    return search(micro)


def test_on_a_model(searched):
    results, evaluator = searched
    assert [result.budget for result in results] == [0.5, 0.8]
    for result in results:
        assert result.budget - 0.02 < evaluator.cost().exact(result.schedule) <= result.budget
        assert len(set(result.schedule)) > 3, "deletes at many layers"
    # The unpruned run, then at least the first layer of five walks.
    assert 16 * (7 + 5) / 8 < evaluator.ledger.forwards < 16 * 7 * 8 / 8


def test_neither_batches_nor_the_evaluator_s_selector_matter(micro, searched):
    results, evaluator = searched
    in_parts, _ = search(micro, batch_size=5)
    assert in_parts == results
    other = Evaluator(*micro[0], micro[1], "random", {"seed": 0}, ledger=(ledger := Ledger()))
    before = ledger.forwards
    again = FitPruneSearch(Calibration(other), evaluator.cost(), BUDGETS, bracket=0.1).run()
    assert again == results
    assert ledger.forwards - before == pytest.approx(evaluator.ledger.forwards)
