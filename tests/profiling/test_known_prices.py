"""Where the price of every part is known, calibration finds it, and predicts schedules that it never saw."""

import pytest
import torch
from builders import build_batch

from vispco import ModelCard, PruningConfig, prune
from vispco.cost import GenerationCost, LatencyCost
from vispco.engine.families import describe
from vispco.engine.prefill import Prefill
from vispco.engine.pruning import Pruned
from vispco.engine.signals import OBSERVED
from vispco.errors import ConfigError
from vispco.profiling import calibrate, calibration, stages
from vispco.profiling.stages import time_stages
from vispco.selectors import Random


def equal_prompts(text, images, batch=1):
    """One prompt several times, its pixels too."""
    inputs = build_batch([text], [images])
    return {name: value.repeat(batch, *[1] * (value.dim() - 1)) for name, value in inputs.items()}


class World:
    """A model in which time only passes where it is told to, at prices that a table can hold.

    Layers take 2 + 0.5 n ticks for n tokens in a prefill, 1 + 0.01 n for a new token with n keys; the vision tower 30,
    logits 3, a look at the decoder's input 7, the engine's hook before a layer 0.25 in a prefill; a random choice of k
    out of n 1 + 0.2 n + 0.1 k + 0.01 n k, and FastV's row of attention 2 + 0.1 n.
    """

    def __init__(self, model, monkeypatch):
        self.model, self.now, self.extra = model, 0.0, []
        monkeypatch.setattr(stages, "clocks", lambda device: {"ticks": lambda: self.now})
        monkeypatch.setattr(calibration, "clocks", lambda device: {"ticks": lambda: self.now})
        choose = Random.choose

        def priced(selector, inputs, counts):
            visual, kept = int(inputs.valid.sum(dim=1).max()), int(counts.max())
            self.now += 1 + 0.2 * visual + 0.1 * kept + 0.01 * visual * kept
            return choose(selector, inputs, counts)

        monkeypatch.setattr(Random, "choose", priced)
        row = OBSERVED["last_row"]

        def priced_row(sight, tokens):
            self.now += 2 + 0.1 * tokens.alive.shape[1]
            return row(sight, tokens)

        monkeypatch.setitem(OBSERVED, "last_row", priced_row)
        rows = Prefill._rows_of

        def priced_rows(state, name, hidden):
            self.now += 7 * (name == "embeddings")
            return rows(state, name, hidden)

        monkeypatch.setattr(Prefill, "_rows_of", priced_rows)
        enter = Pruned._enter

        def priced_hook(pruned, layer, module, args, kwargs):
            self.now += 0.25 * (args[0].shape[1] > 1)
            return enter(pruned, layer, module, args, kwargs)

        monkeypatch.setattr(Pruned, "_enter", priced_hook)
        self.handles = [
            model.model.vision_tower.register_forward_hook(self.see),
            model.lm_head.register_forward_hook(self.say),
            *(layer.register_forward_hook(self.run, with_kwargs=True) for layer in model.get_decoder().layers),
        ]

    def see(self, *_):
        self.now += 30 + (self.extra.pop(0) if self.extra else 0)

    def say(self, *_):
        self.now += 3

    def run(self, layer, args, kwargs, output):
        tokens = args[0].shape[1]
        keys = kwargs["past_key_values"].layers[layer.self_attn.layer_idx].keys.shape[2]
        self.now += 2 + 0.5 * tokens if tokens > 1 else 1 + 0.01 * keys

    def generate(self, inputs, keep, new_tokens, selector="random"):
        """Ticks of an answer with ``new_tokens`` after its first one."""
        config = PruningConfig(selector=selector, keep=keep, model=ModelCard(type="llava", layers=4))
        with torch.no_grad(), prune(self.model, config):
            passes = time_stages(
                lambda: self.model.generate(**inputs, do_sample=False, max_new_tokens=1 + new_tokens),
                describe(self.model).layers, "cpu", "ticks",
            )  # fmt: skip
        return sum(one.total for one in passes)


@pytest.fixture(scope="module")
def world(tiny_llava):
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = World(tiny_llava, monkeypatch)
        yield made
        for handle in made.handles:
            handle.remove()


@pytest.fixture(scope="module")
def known(world, tiny_llava):
    inputs = [equal_prompts((3, 5), 2, batch=2), equal_prompts((2, 4), 1, batch=2)]
    selectors = {"random": {"seed": 1}, "fastv": {}, "divprune": {}}
    return calibrate(tiny_llava, inputs, selectors, batch=2, clock="ticks", new_tokens=6, repeats=2)


HELD_OUT = [
    (1.0, 1.0, 0.5, 0.5),
    (1.0, 0.75, 0.75, 0.75),
    (1.0, 1.0, 1.0, 0.0625),
    (1.0, 0.9375, 0.375, 0.25),
    (0.5, 0.5, 0.25, 0.25),
    (1.0, 0.0, 0.0, 0.0),
]


def test_known_prices_are_found(known):
    assert known.protocol.model_dump() == {"clock": "ticks", "repeats": 2, "warm_up": 5, "spread": 0.0, "drift": 1.0}
    (kind,) = known.kinds
    assert known.layers == (0, 0, 0, 0)
    measured = [
        (tokens, spent) for tokens, spent in zip(kind.whole.tokens, kind.whole.seconds, strict=True) if tokens >= 22
    ]
    assert measured == [pytest.approx((tokens, 2 + 0.5 * tokens)) for tokens in (22, 40, 42)]
    assert kind.pruned.seconds == pytest.approx([2.25 + 0.5 * tokens for tokens in kind.pruned.tokens])
    assert (kind.pruned.tokens[0], kind.pruned.tokens[-2:]) == (6.0, (39.0, 41.0))
    assert known.outside.tokens == (22.0, 40.0)
    assert known.outside.seconds == pytest.approx((33, 33))
    assert known.decode_outside == pytest.approx(3)
    assert known.selectors["divprune"].per_prefill(40.0) == pytest.approx(7)
    random = known.selectors["random"]
    assert random.params == {"seed": 1}
    assert random.once == pytest.approx((0, 0), abs=1e-9)
    assert known.hook == pytest.approx(0.25)
    assert random.per_cut(32.0, 16.0) == pytest.approx(1 + 6.4 + 1.6 + 5.12, rel=1e-3)
    assert known.selectors["fastv"].per_cut(32.0, 16.0) == pytest.approx(2 + 3.2, rel=1e-3)


@pytest.mark.parametrize("keep", HELD_OUT)
def test_schedules_that_were_not_measured_are_predicted(known, world, tiny_llava, keep):
    """Straight prices lie on straight lines, so nothing but the last digits of the fit is left."""
    inputs = equal_prompts((3, 5), 2)
    for selector in ("random", "fastv") if keep[0] == 1.0 else ("random",):
        prefill = LatencyCost(tiny_llava.config, [(8, 32)], known, selector)
        assert prefill.amount(keep) == pytest.approx(world.generate(inputs, keep, 0, selector), rel=1e-3)
        answer = GenerationCost(tiny_llava.config, [(8, 32)], known, selector, new_tokens=6)
        assert answer.amount(keep) == pytest.approx(world.generate(inputs, keep, 6, selector), rel=1e-3)


def calibrate_world(tiny_llava, **options):
    inputs = [equal_prompts((3, 5), 2)]
    given = {"batch": 1, "clock": "ticks", "repeats": 1, "drift": 0.1, **options}
    return calibrate(tiny_llava, inputs, {"random": {}}, **given)


def test_measuring_begins_when_times_have_settled(world, tiny_llava):
    """An unpruned prefill takes 121 ticks; of the first six, the last five spread by nothing in their middle half."""
    world.extra = [1000.0, 500.0]
    assert calibrate_world(tiny_llava).protocol.warm_up == 6


def test_measuring_begins_in_any_case(world, tiny_llava):
    world.extra = [0.0, 400.0] * 7 + [0.0]
    assert calibrate_world(tiny_llava, drift=1e9).protocol.warm_up == 15


def test_a_machine_that_came_to_rest_is_measured_again(world, tiny_llava):
    world.extra = [100.0] * 5
    found = calibrate_world(tiny_llava)
    assert found.protocol.drift == 1.0
    assert found.outside.seconds == pytest.approx((33,))


def test_a_machine_that_does_not_come_to_rest_is_refused(world, tiny_llava):
    world.extra = [float(number) for number in range(1000)]
    with pytest.raises(ConfigError, match=r"took 1\.\d+ times as long at the end .* a change of 0\.1 is allowed; let"):
        calibrate_world(tiny_llava)
    world.extra = []
