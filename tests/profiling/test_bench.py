"""The bench: what is compared with what, what it counts, and what it refuses. No time of a machine is asserted."""

import json
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from builders import build_batch

from vispco import ModelCard, PruningConfig, count_flops, prune
from vispco.cost import KvCost
from vispco.engine.families import describe
from vispco.errors import ConfigError
from vispco.profiling import Generated, bench, energy, time_generation
from vispco.selectors import make_selector
from vispco.testing import MODELS, Sample

MODULE = sys.modules["vispco.profiling.bench"]
"""The module; in its package the name is the function's."""


def configuration(model, ratio=0.25, selector="fastv"):
    layers = model.config.get_text_config().num_hidden_layers
    card = ModelCard(type=model.config.model_type, layers=layers)
    return PruningConfig(selector=selector, keep=(1.0,) * 2 + (ratio,) * (layers - 2), model=card)


@pytest.fixture(scope="module")
def result(tiny_llava):
    """Two batches of two: without padding, and with."""
    inputs = [build_batch([(2, 5), (2, 5)], [1, 1]), build_batch([(2, 5), (4, 9)], [1, 1])]
    return inputs, bench(tiny_llava, inputs, configuration(tiny_llava), new_tokens=3, rounds=2, warm_up=1)


def test_memory_and_cache_are_those_of_the_largest_batch(result, tiny_llava):
    inputs, found = result
    config = configuration(tiny_llava)
    with torch.no_grad():
        cache = tiny_llava(**inputs[1], use_cache=True).past_key_values
        with prune(tiny_llava, config) as pruned:
            tiny_llava(**inputs[1], use_cache=True)
    assert found.kv.stock == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert found.kv.pruned == pruned.kv_bytes
    assert found.kv.ratio == pytest.approx((found.kv.pruned / found.kv.stock,) * 3)
    assert found.kv.stock < found.peak.stock
    assert found.peak.ratio.value < 1


def test_flops_are_those_of_every_prompt(result, tiny_llava):
    _, found = result
    config, flops = configuration(tiny_llava), make_selector("fastv").flops
    # Text, visual tokens, images, question.
    prompts = [(7, 16, 1, 5)] * 3 + [(13, 16, 1, 9)]
    reports = [count_flops(tiny_llava.config, *p[:2], config.keep, flops, *p[2:]) for p in prompts]
    assert found.flops == pytest.approx(sum(r.total for r in reports) / sum(r.unpruned for r in reports), rel=1e-12)
    assert found.delivered == pytest.approx([end / found.flops for end in found.first.ratio])


def test_the_json_has_everything_and_says_where_it_is_from(result, tiny_llava):
    _, found = result
    content = json.loads(found.to_json())
    assert content["schema_version"] == "1.0"
    assert PruningConfig.from_data(content["config"]) == configuration(tiny_llava)
    assert set(content["first"]["ratio"]) == {"value", "low", "high"}
    assert content["delivered_over_ideal"]["value"] == pytest.approx(content["first"]["ratio"]["value"] / found.flops)
    assert set(content["noise"]) == {"first", "decode"}
    facts = content["environment"]
    assert (facts["batch"], facts["dtype"], facts["backend"], facts["model"]) == (2, "float32", "sdpa", "llava")
    assert facts["torch"] == torch.__version__
    assert len(facts["fingerprint"]) == 16
    assert content["protocol"]["prompt_tokens"] == [23, 29]
    assert content["protocol"]["rounds"] == 2


class Clockwork:
    """Answers whose times are set: what was asked, and by whom."""

    def __init__(self, model, monkeypatch, seconds):
        self.asked, self.side = [], "stock"
        sides = MODULE._sides

        def named(*arguments):
            return {name: self.entered(name, side) for name, side in sides(*arguments).items()}

        def timed(model, inputs, new_tokens):
            first, rest = seconds[self.side]
            self.asked.append((self.side, inputs["name"], new_tokens))
            scale = 1 + 0.1 * inputs["name"]
            return Generated(*({"wall": 9.0, "cpu": part * scale} for part in (first, rest)))

        monkeypatch.setattr(MODULE, "_sides", named)
        monkeypatch.setattr(MODULE, "time_generation", timed)
        baseline = iter([2.0, 2.2])
        monkeypatch.setattr(MODULE, "_baseline", lambda *_: next(baseline))
        monkeypatch.setattr(MODULE, "_memory", lambda model, inputs, side: (3, 4))
        monkeypatch.setattr(MODULE, "_flops", lambda *_: 0.5)

    def entered(self, name, side):
        @contextmanager
        def block():
            with side():
                self.side = name
                yield

        return block


SECONDS = {"stock": (10.0, 4.0), "pruned": (6.0, 5.0), "random": (5.0, 1.0), "again": (11.0, 2.0)}


def inputs_named(*names):
    return [{"input_ids": torch.zeros(2, 7 + name), "name": name} for name in names]


def test_sides_are_compared_within_a_round_on_the_same_prompts(tiny_llava, monkeypatch):
    clockwork = Clockwork(tiny_llava, monkeypatch, SECONDS)
    found = bench(
        tiny_llava, inputs_named(0, 1, 2), configuration(tiny_llava), new_tokens=8, rounds=3, warm_up=1, clock="cpu"
    )
    sides = ["stock", "pruned", "random", "again"]
    expected = [*sides, *sides[::-1], *sides, *sides[::-1]]
    assert [side for side, _, _ in clockwork.asked] == expected
    assert [name for _, name, _ in clockwork.asked] == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4
    assert {new for _, _, new in clockwork.asked} == {8}
    # Rounds 1, 2 and 0 count, with 1.1, 1.2 and 1.0 times the seconds; the medians are of the first.
    assert found.first.stock == pytest.approx(11.0)
    assert found.first.pruned == pytest.approx(6.6)
    assert found.first.ratio == pytest.approx((0.6,) * 3)
    assert found.decode.stock == pytest.approx(2 * 8 / 4.4)
    assert found.decode.ratio == pytest.approx((0.8,) * 3)
    assert found.selector.seconds == pytest.approx((1.1, 1.0, 1.2))
    assert found.selector.share == pytest.approx((0.1,) * 3)
    assert found.noise["first"] == pytest.approx((1.1,) * 3)
    assert found.noise["decode"] == pytest.approx((2.0,) * 3)
    assert found.delivered == pytest.approx((1.2,) * 3)
    assert found.drift == pytest.approx(1.1)


def test_the_baseline_is_the_median_of_prefills_but_the_first(tiny_llava, monkeypatch):
    times = iter([99.0, 1.0, 5.0, 2.0, 4.0, 3.0])
    tokens = []

    def timed(call, device):
        tokens.append(call().sequences.shape[1])
        return {"cpu": next(times), "wall": 0.0}

    monkeypatch.setattr(MODULE, "seconds", timed)
    inputs = build_batch([(2, 5)], [1])
    assert MODULE._baseline(tiny_llava, inputs, "cpu") == 3.0
    assert tokens == [inputs["input_ids"].shape[1] + 1] * 6


def test_random_has_no_control_and_progress_is_told(tiny_llava, monkeypatch):
    clockwork, told = Clockwork(tiny_llava, monkeypatch, SECONDS), []
    config = configuration(tiny_llava, selector="random")
    found = bench(tiny_llava, inputs_named(0), config, rounds=1, warm_up=0, advance=lambda: told.append(1))
    assert [side for side, _, _ in clockwork.asked] == ["stock", "pruned", "again"]
    assert found.selector is None
    assert json.loads(found.to_json())["selector"] is None
    assert len(told) == 3


def test_energy_is_of_prefills_of_both(tiny_llava, monkeypatch):
    Clockwork(tiny_llava, monkeypatch, SECONDS)
    monkeypatch.setattr(MODULE, "find_meter", lambda device: (SimpleNamespace(), "a meter"))
    tokens, spent = [], iter([4.0, 3.0, 3.0, 4.0, 4.0, 3.0, 3.0, 4.0, 4.0, 3.0])

    def joules(call, meter, device):
        tokens.append(call().shape[1])
        return next(spent)

    monkeypatch.setattr(MODULE, "joules", joules)
    monkeypatch.setattr(MODULE, "_prefill", lambda model, inputs: inputs["input_ids"])
    found = bench(tiny_llava, inputs_named(0, 3, 1), configuration(tiny_llava), rounds=1)
    assert found.energy.stock == 4.0
    assert found.energy.ratio == (0.75, 0.75, 0.75)
    assert found.energy_source == "a meter"
    assert set(tokens) == {10}  # the largest batch


def test_a_device_without_a_meter_gives_no_energy(result, tiny_llava, monkeypatch, tmp_path):
    _, found = result
    if found.energy is None:
        assert found.energy_source
        assert json.loads(found.to_json())["energy"] is None
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    assert MODULE._energy(tiny_llava, {}, {}) == (None, "this machine has no RAPL")


BAD = {
    "no rounds": ({"rounds": 0}, ["rounds = 0", "below 1"]),
    "no tokens": ({"new_tokens": 0}, ["new_tokens = 0", "below 1"]),
    "unknown clock": ({"clock": "sun"}, ["'sun'", "wall, cpu"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_numbers_are_refused_before_anything_runs(case, tiny_llava):
    options, words = BAD[case]
    with pytest.raises(ConfigError) as error:
        bench(tiny_llava, [{}], configuration(tiny_llava), **options)
    assert all(word in str(error.value) for word in words)


def test_no_prompts_and_other_models_are_refused(tiny_llava):
    with pytest.raises(ConfigError, match="batches = 0"):
        bench(tiny_llava, [], configuration(tiny_llava))
    other = PruningConfig(selector="fastv", keep=(1.0,) * 5, model=ModelCard(type="llava", layers=5))
    with pytest.raises(ConfigError, match="5 decoder layers"):
        bench(tiny_llava, [{}], other)


@pytest.mark.parametrize("name", MODELS)
def test_every_family_can_be_benched(name):
    """The unpruned cache has the bytes that are counted for the prompt, and the pruned one fewer."""
    tiny = MODELS[name]
    model, inputs = tiny.build(), tiny.inputs([Sample(2, 1, 5, seed=1)])
    found = bench(model, [inputs], configuration(model, 0.5, "random"), new_tokens=1, rounds=1, warm_up=0)
    tokens = inputs["input_ids"].shape[1]
    visual = int(describe(model).visual_mask(inputs["input_ids"]).sum())
    assert found.kv.stock == KvCost(model.config, [(tokens - visual, visual)], torch.float32).unpruned
    assert 0 < found.kv.pruned < found.kv.stock
    assert 0 < found.flops < 1
    assert min(found.first.stock, found.first.pruned, found.decode.stock, found.decode.pruned) > 0


def test_a_generation_is_timed_to_its_first_token_and_from_there(tiny_llava, monkeypatch):
    """A model that takes its time: 20 ms for the prompt, 5 ms for every token after it."""
    calls = []

    def wait(module, arguments, inputs):
        calls.append(inputs["inputs_embeds"].shape[1])
        time.sleep(0.02 if calls[-1] > 1 else 0.005)

    inputs = build_batch([(2, 5), (1, 7)], [1, 1])
    monkeypatch.setattr(tiny_llava.generation_config, "eos_token_id", list(range(63)))
    hook = tiny_llava.get_decoder().register_forward_pre_hook(wait, with_kwargs=True)
    found = time_generation(tiny_llava, inputs, 4)
    hook.remove()
    assert calls == [inputs["input_ids"].shape[1], 1, 1, 1, 1]  # though nearly every token would end the text
    assert found.first["wall"] >= 0.02
    assert found.rest["wall"] >= 0.02
    assert found.first["cpu"] < found.first["wall"]
