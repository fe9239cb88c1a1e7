"""A pruning configuration survives the disk byte for byte, and nothing else passes for one."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import LlamaConfig

from vispco import document
from vispco.config import PruningConfig
from vispco.cost import FlopCost, count_flops
from vispco.errors import ConfigError

BASE = {
    "selector": "random",
    "selector_params": {"seed": 3},
    "keep": [1.0, 0.5, 0.125],
    "model": {"type": "llava", "layers": 3, "name": "größe", "fingerprint": "0123abcd"},
    "budget": 0.5,
    "costs": {"flops": 0.1 + 0.2},
    "quality": {"score": 1 / 3},
    "provenance": {"run": "runs/a", "seed": 0, "versions": {"torch": "2.6"}},
}

numbers = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def configs(draw):
    keep = sorted(draw(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4)), reverse=True)
    return PruningConfig(
        selector=draw(st.text(max_size=8)),
        selector_params=draw(st.dictionaries(st.text(max_size=5), values, max_size=3)),
        keep=tuple(keep),
        model={"type": "llava", "layers": len(keep), "name": draw(st.text(max_size=5))},
        budget=draw(st.none() | st.floats(0.0, 1.0, exclude_min=True)),
        costs=draw(st.dictionaries(st.text(max_size=5), numbers, max_size=2)),
        provenance=draw(st.dictionaries(st.text(max_size=5), values, max_size=2)),
    )


@settings(deadline=None, max_examples=50)
@given(configs())
def test_round_trip(config):
    text = config.to_json()
    assert PruningConfig.from_json(text) == config
    assert PruningConfig.from_json(text).to_json() == text


def test_saved_file_is_byte_stable(tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    second.write_text("something longer than a configuration, which must go " * 100)
    PruningConfig(**BASE).save(first)
    loaded = PruningConfig.load(first)
    loaded.save(str(second))
    assert loaded == PruningConfig(**BASE)
    assert first.read_bytes() == second.read_bytes() == loaded.to_json().encode()
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_json_is_for_people_and_independent_of_order():
    config = PruningConfig(**BASE)
    provenance = dict(reversed(BASE["provenance"].items()))
    shuffled = PruningConfig(**{**dict(reversed(BASE.items())), "provenance": provenance, "schema_version": "1.0"})
    assert config == shuffled
    assert config.to_json() == shuffled.to_json()
    assert json.loads(config.to_json()) == {**BASE, "schema_version": "1.0"}
    assert config.to_json().count("\n") > len(BASE)
    assert PruningConfig(**{**BASE, "budget": 0.25}) != config


def test_negative_zero_is_zero():
    plain, negative = (PruningConfig(**{**BASE, "keep": [1.0, 0.5, zero]}) for zero in (0.0, -0.0))
    assert plain == negative
    assert plain.to_json() == negative.to_json()


def test_later_minor_version_of_the_same_fields_is_read():
    assert PruningConfig.from_json(json.dumps({**BASE, "schema_version": "1.7"})).schema_version == "1.7"


def test_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        PruningConfig(**BASE).keep = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schema_version": "2.0"},
            "field schema_version: version '2.0' cannot be read by this release, which reads 1",
        ),
        ({"schema_version": "0.9"}, "field schema_version: version '0.9' cannot be read"),
        ({"schema_version": "10.0"}, "field schema_version: version '10.0' cannot be read"),
        ({"schema_version": ""}, "field schema_version: version '' cannot be read"),
        ({"schema_version": 1.0}, "field schema_version: "),
        ({"keep": [1.0, 0.5]}, "keep has 2 ratios but model.layers is 3; give one ratio per layer"),
        ({"keep": [1.0, 0.5, 0.5, 0.5]}, "keep has 4 ratios but model.layers is 3"),
        ({"keep": []}, "field keep: keep is empty"),
        ({"keep": [1.0, 0.25, 0.5]}, r"field keep: keep\[2\] = 0.5 is above keep\[1\] = 0.25"),
        ({"keep": [1.5, 1.0, 0.5]}, r"field keep: keep\[0\] = 1.5 is outside 0..1"),
        ({"keep": [1.0, float("nan"), 0.5]}, "field keep.1: .*finite"),
        ({"keep": [1.0, "half", 0.5]}, "field keep.1: "),
        ({"keep": 1.0}, "field keep: "),
        ({"model": {"type": "llava", "layers": 0}}, "field model.layers: "),
        ({"model": {"type": "llava", "layers": 3, "heads": 4}}, "field model.heads: .*not permitted"),
        ({"model": {"layers": 3}}, "field model.type: .*required"),
        ({"budget": 0.0}, "field budget: .*greater than 0"),
        ({"budget": -0.5}, "field budget: .*greater than 0"),
        ({"budget": 1.000001}, "field budget: .*less than or equal to 1"),
        ({"budget": float("nan")}, "field budget: "),
        ({"costs": {"flops": float("inf")}}, "field costs.flops: .*finite"),
        ({"quality": {"score": float("nan")}}, "field quality.score: .*finite"),
        ({"selector_params": {"seed": float("nan")}}, "field selector_params.seed.*finite"),
        ({"provenance": {"a": [float("-inf")]}}, "field provenance.a.*finite"),
        ({"selector": None}, "field selector: "),
        ({"colour": "red"}, "field colour: .*not permitted"),
    ],
)
def test_refuses(tmp_path, change, message):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({**BASE, **change}))
    with pytest.raises(ConfigError, match=message) as caught:
        PruningConfig.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError):
        PruningConfig(**{**BASE, **change})


@pytest.mark.parametrize("text", ["null", "[]", "3", '"x"', "{}", "", "\ufeff{}", "{]", "[" * 100_000, "1" * 5000])
def test_refuses_what_is_no_configuration(text):
    with pytest.raises(ConfigError):
        PruningConfig.from_json(text)


def test_refuses_every_truncation(tmp_path):
    path = tmp_path / "best.json"
    whole = PruningConfig(**BASE).to_json().encode()
    for cut in range(len(whole) - 1):  # without the final line break it is still whole
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match=r"not valid JSON .* the file may be truncated, export it again"):
            PruningConfig.load(path)
    path.write_bytes(whole[:-1])
    assert PruningConfig.load(path) == PruningConfig(**BASE)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damage_is_refused_or_leaves_a_valid_configuration(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    whole = bytearray(PruningConfig(**BASE).to_json().encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(whole)
    try:
        config = PruningConfig.load(path)
    except ConfigError:
        return
    assert PruningConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", ["missing.json", "", "a\0b"])
def test_load_refuses_unreadable(tmp_path, name):
    with pytest.raises(ConfigError, match=r"cannot be read .* give the path of an exported configuration"):
        PruningConfig.load(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["absent/best.json", "file/best.json", "folder", "x" * 300, "a\0b"], ids=range(5))
def test_save_refuses_unwritable_and_leaves_nothing(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be written .* choose another place"):
        PruningConfig(**BASE).save(f"{tmp_path}/{name}")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"
    assert not any((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_save_refuses_a_place_without_a_name(name):
    with pytest.raises(ConfigError, match=r"cannot be written"):
        PruningConfig(**BASE).save(name)


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "best.json"
    PruningConfig(**BASE).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigError, match="disk full"):
        PruningConfig(**{**BASE, "budget": 0.25}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- one ratio before the first layer --------------------------------------------------------------------------------

DECODER = LlamaConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64,
)  # fmt: skip


def schedule(keep, selector="fastv"):
    return PruningConfig(selector=selector, keep=keep, model={"type": "llava", "layers": len(keep)})


def falling(ratios):
    return st.lists(ratios, min_size=4, max_size=4).map(lambda keep: tuple(sorted(keep, reverse=True)))


schedules = falling(st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0))
prompts = st.tuples(st.integers(0, 40), st.integers(0, 700))


@pytest.mark.parametrize(
    ("keep", "ratio"),
    [
        ((1.0, 0.5, 0.3, 0.2), 0.5),
        ((1.0, 0.1, 0.1), 0.4),  # 0.4000000000000001 by a float sum
        ((1.0, 0.0, 0.0), 1 / 3),
    ],
)
def test_projection_without_a_cost_is_the_mean(keep, ratio):
    projection = schedule(keep).project_to_input()
    assert projection.ratio == ratio
    assert projection.config.keep == (ratio,) * len(keep)


@settings(deadline=None, max_examples=50)
@given(falling(st.integers(0, 16)), st.integers(0, 40))
def test_projection_costs_no_more_where_nothing_is_rounded(parts, text):
    """Counts 4 p of 64 tokens have a whole mean. Linear parts cost the same, attention no more."""
    keep = [part / 16 for part in parts]
    before = count_flops(DECODER, text, 64, keep)
    after = count_flops(DECODER, text, 64, schedule(keep).project_to_input().config.keep)
    assert (after.projections, after.mlp, after.lm_head) == (before.projections, before.mlp, before.lm_head)
    assert after.attention <= before.attention
    assert (after.attention == before.attention) == (len(set(parts)) == 1)


@settings(deadline=None, max_examples=200)
@given(schedules, prompts)
def test_rounding_of_a_projection_adds_less_than_a_token_per_layer(keep, prompt):
    """One more text token is one more token in every layer."""
    text, visual = prompt
    after = count_flops(DECODER, text, visual, schedule(keep).project_to_input().config.keep)
    assert after.total <= count_flops(DECODER, text + 1, visual, keep).total


def test_rounding_of_a_projection_can_add_tokens():
    """Counts 7, 2 of 10 become 5, 5, so the promise needs its exception."""
    keep = (0.74, 0.74, 0.24, 0.24)
    after = count_flops(DECODER, 0, 10, schedule(keep).project_to_input().config.keep)
    assert after.mlp > count_flops(DECODER, 0, 10, keep).mlp


@pytest.mark.parametrize(
    ("cost", "ratio"),
    [
        (sum, 0.541666),
        (lambda keep: sum(ratio**2 for ratio in keep), 0.649519),  # sqrt(1.265625 / 3)
        (lambda keep: keep[0], 1.0),
        (lambda keep: keep[-1], 0.125),
    ],
)
def test_projection_with_a_cost_by_hand(cost, ratio):
    assert schedule((1.0, 0.5, 0.125)).project_to_input(cost).ratio == ratio


@settings(deadline=None, max_examples=50)
@given(schedules, st.lists(prompts, min_size=1, max_size=3), st.integers(0, 1))
def test_projection_with_a_cost_is_the_largest_that_costs_no_more(keep, samples, scored_rows):
    cost = FlopCost(DECODER, samples, scored_rows).exact
    ratio = schedule(keep).project_to_input(cost).ratio
    assert cost((ratio,) * 4) <= cost(keep)
    if len(set(keep)) > 1:
        assert ratio == round(ratio, 6)
        assert ratio == 1.0 or cost((ratio + 1e-6,) * 4) > cost(keep)


@pytest.mark.parametrize("cost", [lambda keep: float("nan"), lambda keep: -sum(keep)])
def test_projection_refuses_a_cost_that_is_none(cost):
    with pytest.raises(ConfigError, match=r"cost gives .* give a cost that is a number and does not fall"):
        schedule((1.0, 0.5)).project_to_input(cost)


@pytest.mark.parametrize("cost", [None, sum])
@pytest.mark.parametrize("ratio", [1.0, 1 / 3, 0.29, 1e-7, 0.0])
def test_uniform_schedule_is_its_own_projection(ratio, cost):
    projection = schedule((ratio,) * 7).project_to_input(cost)
    assert projection.ratio == ratio
    assert projection.config.keep == (ratio,) * 7
    assert projection.loses.startswith("Nothing is lost: every layer sees ")


def test_projection_carries_over_what_still_holds():
    config = PruningConfig(**BASE)
    projection = config.project_to_input()
    expected = {
        **BASE,
        "keep": [0.5416666666666666] * 3,
        "costs": {},
        "quality": {},
        "provenance": {**BASE["provenance"], "projected_from": BASE["keep"]},
    }
    assert projection.config == PruningConfig(**expected)
    assert config == PruningConfig(**BASE)


@settings(deadline=None, max_examples=50)
@given(configs(), st.sampled_from([None, sum]))
def test_projection_round_trip(config, cost):
    projected = config.project_to_input(cost).config
    text = projected.to_json()
    assert PruningConfig.from_json(text) == projected
    assert PruningConfig.from_json(text).to_json() == text == config.project_to_input(cost).config.to_json()


def test_selector_of_a_projection():
    config = PruningConfig(**BASE)

    def chosen(*arguments):
        projected = config.project_to_input(None, *arguments).config
        return projected.selector, projected.selector_params

    assert chosen() == chosen("random") == ("random", {"seed": 3})
    assert chosen(None, {"seed": 4}) == chosen("random", {"seed": 4}) == ("random", {"seed": 4})
    assert chosen("divprune") == ("divprune", {})
    assert chosen("divprune", {"metric": "cosine"}) == ("divprune", {"metric": "cosine"})
    with pytest.raises(ConfigError, match=r"field selector_params\.seed.*finite"):
        chosen("random", {"seed": float("nan")})


@pytest.mark.parametrize(
    ("keep", "selector", "loses"),
    [
        (
            (1.0, 1.0, 0.25, 0.1, 0.1, 0.05),
            None,
            "Of the visual tokens, layers 0-1 see 41.67 % instead of 100 % and layers 2-5 see 41.67 % instead of "
            "25 to 5 %. All are chosen before the first layer, so fastv must not need attention inside the language "
            "model; name another selector if it does.",
        ),
        (
            (1.0, 0.4, 0.3, 0.25, 0.05),
            "random",  # layer 1 sees what it saw
            "Of the visual tokens, layer 0 sees 40 % instead of 100 % and layers 2-4 see 40 % instead of 30 to 5 %. "
            "All are chosen before the first layer, by random instead of fastv.",
        ),
        ((0.5, 0.5), "fastv", "Nothing is lost: every layer sees 50 % of the visual tokens already."),
        (
            (0.5, 0.5),
            "random",
            "Tokens are chosen by random instead of fastv; every layer sees 50 % of the visual tokens already.",
        ),
    ],
)
def test_projection_says_what_it_loses(keep, selector, loses):
    assert schedule(keep).project_to_input(selector=selector).loses == loses


def test_projection_above_the_whole_schedule_says_so():
    """7 of 16 tokens are the count of both ratios and of all up to 0.468749."""
    config = schedule((0.44, 0.44, 0.43, 0.43))
    projection = config.project_to_input(lambda keep: count_flops(DECODER, 5, 16, keep).total)
    assert projection.ratio == 0.468749
    assert projection.loses.startswith("Of the visual tokens, layers 0-3 see 46.87 % instead of 44 to 43 %. All")


def test_long_files_are_refused_before_they_are_parsed(tmp_path, monkeypatch):
    path = tmp_path / "best.json"
    path.write_text("[" * 100)
    monkeypatch.setattr(document, "MAX_BYTES", 99)
    with pytest.raises(ConfigError, match=r"best\.json: has more than 99 bytes; give the path of an exported config"):
        PruningConfig.load(path)
    monkeypatch.setattr(document, "MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="not valid JSON"):
        PruningConfig.load(path)


@pytest.mark.parametrize("field", ["selector", "selector_params", "provenance"])
def test_half_a_surrogate_pair_is_refused(field, tmp_path):
    """UTF-8 cannot write it, so a question mark stood in its place in the file that was saved."""
    value = '"\\ud800"' if field == "selector" else '{"a\\ud800b": 1}'
    rest = json.dumps({name: value for name, value in BASE.items() if name != field})
    (tmp_path / "best.json").write_text(f'{rest[:-1]}, "{field}": {value}}}')
    with pytest.raises(ConfigError, match=r"best\.json: not valid JSON \(.*hex escape"):
        PruningConfig.load(tmp_path / "best.json")
