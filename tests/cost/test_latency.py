"""Predicted times are sums of the table's parts, the soft cost follows the exact one, and bad tables are refused."""

import json
import re

import pytest
import torch
from transformers import LlamaConfig

from vispco.cost import GenerationCost, LatencyCost, LatencyTable
from vispco.cost.latency import gate
from vispco.cost.table import Curve
from vispco.errors import ConfigError

SMALL = LlamaConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64,
)  # fmt: skip
KEEP = (1.0, 0.5, 0.5, 0.125)
"""Of 16 visual tokens: 16, 8, 8, 2."""


def curve(*points):
    return {"tokens": [float(tokens) for tokens, _ in points], "seconds": [seconds for _, seconds in points]}


def data():
    """Layers 0 and 2 of one kind, 1 and 3 of another; prompts of 4 to 30 tokens."""
    full = {
        "window": None,
        "whole": curve((16, 16.0), (30, 30.0)),
        "pruned": curve((4, 4.0), (14, 14.0), (30, 46.0)),
        "decode_whole": curve((16, 0.16), (34, 0.34)),
        "decode_pruned": curve((4, 0.08), (34, 0.68)),
    }
    sliding = {
        "window": 8,
        "whole": curve((16, 1.6), (30, 3.0)),
        "pruned": curve((4, 0.4), (30, 3.0)),
        "decode_whole": curve((16, 0.016), (34, 0.034)),
        "decode_pruned": curve((4, 0.004), (34, 0.034)),
    }
    return {
        "schema_version": "1.0",
        "key": {
            "device": "abacus", "threads": 1, "dtype": "float32", "backend": "sdpa", "batch": 8, "torch": "2.13.0",
            "transformers": "5.23.0", "model": "llava", "parameters": 1000, "decoder": {"layers": 4, "hidden": 48},
        },
        "kinds": [full, sliding],
        "layers": [0, 1, 0, 1],
        "outside": curve((20, 5.0), (30, 7.0)),
        "decode_outside": 0.5,
        "selectors": {
            "fastv": {"params": {}, "once": [0.25, 0.01], "cut": [1.0, 0.1, 0.2, 0.03, 0.04]},
            "random": {"params": {"seed": 3}, "once": [0.0, 0.0], "cut": [0.0, 0.0, 0.0, 0.0, 0.0]},
        },
        "protocol": {"clock": "wall", "repeats": 5, "warm_up": 6, "spread": 0.03, "drift": 1.02},
    }  # fmt: skip


def table(**changes):
    return LatencyTable.model_validate({**data(), **changes})


def cost(tokens=((6, 16),), selector="fastv", kind=LatencyCost, **options):
    return kind(SMALL, list(tokens), table=table(), selector=selector, **options)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_unpruned_prefill():
    """22 tokens: 5.4 outside, two layers of 22 and two of 2.2."""
    assert cost().unpruned == pytest.approx(5.4 + 2 * 22 + 2 * 2.2)
    assert cost().exact((1.0,) * 4) == 1.0


def test_pruned_prefill():
    """Layers have 22, 14, 14 and 8 tokens; cuts are 16 -> 8 and 8 -> 2 visual tokens."""
    layers = 22 + 1.4 + 14 + 0.8
    cuts = (1 + 1.6 + 1.6 + 0.03 * 128 + 0.04 * 256) + (1 + 0.8 + 0.4 + 0.03 * 16 + 0.04 * 64)
    assert cost().amount(KEEP) == pytest.approx(5.4 + layers + (0.25 + 0.22) + cuts)
    assert cost(selector="random").amount(KEEP) == pytest.approx(5.4 + layers)


def test_a_cut_before_the_first_layer():
    """All layers have 14 tokens, and none of them is whole."""
    cuts = 1 + 1.6 + 1.6 + 0.03 * 128 + 0.04 * 256
    assert cost().amount((0.5,) * 4) == pytest.approx(5.4 + 2 * 14 + 2 * 1.4 + 0.47 + cuts)


def test_layers_after_a_cut_have_a_curve_of_their_own():
    """21 tokens: 14 + 7 * 2 s in a layer after the cut, where a whole one would take 21."""
    whole, cut = (
        cost(selector="random").amount((1.0,) * 4),
        cost(selector="random").amount((1.0, 1.0, 15 / 16, 15 / 16)),
    )
    assert cut - whole == pytest.approx(28 + 2.1 - 22 - 2.2)


def test_layers_before_the_first_cut_pay_for_their_hooks():
    """One of them for a cut before layer 1, three for one before layer 3, none where nothing is cut."""
    costs = [LatencyCost(SMALL, [(6, 16)], table(hook=hook), "random") for hook in (0.0, 0.5)]
    for keep, layers in (((1.0,) * 4, 0), (KEEP, 1), ((1.0, 1.0, 1.0, 0.5), 3), ((0.5,) * 4, 0)):
        without, with_hooks = (cost.amount(keep) for cost in costs)
        assert with_hooks - without == pytest.approx(0.5 * layers)
        soft = [cost.unpruned * cost.soft(torch.tensor(keep)).item() for cost in costs]
        assert soft[1] - soft[0] == pytest.approx(0.5 * layers, abs=0.02)


def test_choosing_can_cost_more_than_it_saves():
    keep = (1.0, 1.0, 1.0, 15 / 16)
    assert cost().exact(keep) > 1.0
    assert cost().reachable(keep) == (1.0, 1.0)


def test_samples_count_by_their_time():
    """A ratio of means, not a mean of ratios."""
    both = cost([(6, 16), (6, 16), (4, 20)])
    parts = [cost([kind]) for kind in ((6, 16), (6, 16), (4, 20))]
    assert both.exact(KEEP) == pytest.approx(
        sum(part.amount(KEEP) for part in parts) / sum(part.unpruned for part in parts)
    )
    assert both.of([(4, 20)]).exact(KEEP) == pytest.approx(parts[2].exact(KEEP))


def test_a_sample_without_an_image_costs_the_same_under_every_schedule():
    text = cost([(16, 0)])
    assert text.amount(KEEP) == text.unpruned
    assert text.soft(torch.tensor(KEEP)).item() == pytest.approx(1.0)


def test_an_answer():
    """2 tokens after a prefill with 22, 14, 14 and 8 tokens; they find one key more each time."""
    decode = (0.23 + 0.24) + (0.015 + 0.016) + (0.30 + 0.32) + (0.009 + 0.010)
    generation = cost(kind=GenerationCost, new_tokens=2)
    assert generation.amount(KEEP) == pytest.approx(cost().amount(KEEP) + 2 * 0.5 + decode)
    assert generation.unpruned == pytest.approx(cost().unpruned + 2 * 0.5 + 2 * (0.23 + 0.24) + 2 * (0.023 + 0.024))


def test_names_and_units():
    assert (LatencyCost.name, LatencyCost.unit) == ("latency", "s")
    assert (GenerationCost.name, GenerationCost.unit) == ("generation", "s")


def test_costs_of_different_tables_do_not_compare():
    other = LatencyCost(SMALL, [(6, 16)], table(decode_outside=0.6), "fastv")
    assert cost().basis == cost(selector="random").basis != other.basis
    assert cost(kind=GenerationCost, new_tokens=2).basis == f"{cost().basis}, 2 new tokens"
    assert cost(kind=GenerationCost, new_tokens=2).of([(4, 20)]).basis == f"{cost().basis}, 2 new tokens"


# --- soft ------------------------------------------------------------------------------------------------------------

KINDS = [(LatencyCost, {}), (GenerationCost, {"new_tokens": 4})]
both_kinds = pytest.mark.parametrize(("kind", "options"), KINDS, ids=["latency", "generation"])


@both_kinds
def test_soft_is_exact_where_nothing_is_dropped(kind, options):
    whole = cost([(6, 16), (4, 20), (4, 16)], kind=kind, **options)
    assert whole.soft(torch.ones(4)).item() == pytest.approx(1.0, abs=1e-12)


@both_kinds
@pytest.mark.parametrize("keep", [KEEP, (0.5,) * 4, (1.0, 0.875, 0.75, 0.5), (1.0, 1.0, 1.0, 0.0)])
def test_soft_is_nearly_exact_where_cuts_drop_a_tenth_or_more(kind, options, keep):
    some = cost([(6, 16), (4, 16), (5, 16)], kind=kind, **options)
    assert some.soft(torch.tensor(keep)).item() == pytest.approx(some.exact(keep), rel=7e-3)


def test_the_gate():
    assert gate(torch.tensor(0.0, dtype=torch.float64)) == 0.0
    assert 0.993 < gate(torch.tensor(0.1, dtype=torch.float64)) < 1.0


@both_kinds
def test_soft_takes_schedules_of_problems_and_samples(kind, options):
    ratios = torch.rand(3, 2, 4, dtype=torch.float64).sort(dim=-1, descending=True).values
    some = cost([(6, 16), (4, 20)], kind=kind, **options)
    soft = some.soft(ratios)
    assert soft.shape == (3, 2)
    for problem in range(3):
        for sample in range(2):
            torch.testing.assert_close(soft[problem, sample], some.soft(ratios[problem, sample]))


@both_kinds
def test_gradients_are_those_of_finite_differences(kind, options):
    some = cost([(6, 16), (4, 20)], kind=kind, **options)
    ratios = torch.tensor([0.97, 0.71, 0.53, 0.31], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(some.soft, ratios)


def test_a_gradient_sees_what_dropping_saves_and_that_a_cut_is_not_free():
    """At no drop, one token less saves time in its layer, while the gate opens on the price of a cut."""
    same = data()["kinds"]
    same[0]["pruned"] = curve((4, 4.0), (30, 30.0))
    free, dear = (LatencyCost(SMALL, [(6, 16)], table(kinds=same), name) for name in ("random", "fastv"))
    ratios = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(free.amount((1.0,) * 4) * free.soft(ratios), ratios)
    torch.testing.assert_close(slope, 16 * torch.tensor([1.0, 0.1, 1.0, 0.1], dtype=torch.float64))
    (with_price,) = torch.autograd.grad(dear.soft(ratios), ratios)
    assert with_price[-1] < 0  # that of the other layers cancels: a token less in one of them alone is no schedule
    assert dear.soft(torch.tensor([1.0, 0.99, 0.99, 0.99])) > 1.0 > free.soft(torch.tensor([1.0, 0.99, 0.99, 0.99]))


# --- range -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((6, 25), "20 to 30 tokens, and 31"),  # larger than the largest prompt
        ((6, 9), "16 to 30 tokens, and 15"),  # smaller than the smallest whole layer
        ((3, 16), "4 to 30 tokens, and 3"),  # fewer text tokens than were left in any pruned layer
    ],
)
def test_what_was_not_measured_is_refused(tokens, message):
    with pytest.raises(ConfigError, match=f"{message} are asked for; profile again with this data"):
        cost([(6, 16), tokens])


def test_an_answer_that_is_longer_than_measured_is_refused():
    cost(kind=GenerationCost, new_tokens=12)
    with pytest.raises(ConfigError, match="16 to 34 tokens, and 35 are asked for; profile again"):
        cost(kind=GenerationCost, new_tokens=13)


def test_a_table_whose_outside_ends_early_is_refused():
    short = table(outside=curve((20, 5.0), (21, 7.0)))
    with pytest.raises(ConfigError, match="to 21 tokens, and 22 are asked for"):
        LatencyCost(SMALL, [(6, 16)], short, "fastv")


def test_a_prompt_below_the_smallest_has_the_smallest_ones_time_outside():
    """17 tokens in a table whose first prompt had 20."""
    assert cost([(4, 13)]).unpruned == pytest.approx(5.0 + 2 * 17 + 2 * 1.7)


def test_a_selector_without_times_is_refused():
    with pytest.raises(ConfigError, match="no selector 'mob', only fastv, random; choose one of them"):
        cost(selector="mob")


def test_a_table_of_a_deeper_model_is_refused():
    with pytest.raises(ConfigError, match="5 decoder layers, and this one has 4"):
        LatencyCost(SMALL, [(6, 16)], table(layers=[0, 1, 0, 1, 0]), "fastv")


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_table_survives_its_file_byte_by_byte(tmp_path):
    path = tmp_path / "table.json"
    table().save(path)
    loaded = LatencyTable.load(path)
    assert loaded == table()
    assert loaded.to_json() == path.read_text() == table().to_json()
    assert loaded.digest == table().digest
    assert re.fullmatch("[0-9a-f]{12}", loaded.digest)
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


WRONG = {
    "version": (("schema_version",), "2.0", r"schema_version: version '2.0' cannot be read"),
    "not a number": (("decode_outside",), float("nan"), "decode_outside"),
    "infinite": (("kinds", 0, "whole", "seconds", 0), float("inf"), r"kinds.0.whole.seconds.0"),
    "beyond all time": (("kinds", 0, "whole", "seconds", 1), 1e308, r"kinds.0.whole.seconds.1: .* 1000000000"),
    "negative": (("outside", "seconds", 0), -1.0, r"outside.seconds.0"),
    "negative price": (("selectors", "fastv", "cut", 2), -0.1, r"selectors.fastv.cut.2"),
    "too few prices": (("selectors", "fastv", "cut"), [1.0], r"selectors.fastv.cut"),
    "falling": (("kinds", 1, "pruned", "seconds", 1), 0.1, r"kinds.1.pruned: 0.1 s follow 0.4 s"),
    "tokens fall": (("kinds", 1, "pruned", "tokens", 1), 4.0, r"kinds.1.pruned: tokens 4 follow 4"),
    "times missing": (("outside", "seconds"), [1.0], "outside: 1 times for 2 numbers"),
    "no such kind": (("layers", 2), 2, "layers.2. = 2 is no kind; there are 2"),
    "no layers": (("layers",), [], "layers"),
    "batch": (("key", "batch"), 0, "key.batch"),
    "unknown field": (("speed",), 1.0, "speed"),
}


@pytest.mark.parametrize(("place", "value", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_field_is_named_with_its_file(tmp_path, place, value, message):
    content = data()
    part = content
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"table.json: field .*{message}"):
        LatencyTable.load(path)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none.json: cannot be read .* make a table with vispco profile"):
        LatencyTable.load(tmp_path / "none.json")
    path = tmp_path / "table.json"
    path.write_text(table().to_json()[:-20])
    with pytest.raises(ConfigError, match=r"table.json: not valid JSON .* profile again"):
        LatencyTable.load(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"table.json: field the whole file"):
        LatencyTable.load(path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be written .* choose another place"):
        table().save(tmp_path / "none" / "table.json")


def test_a_minor_version_that_is_newer_is_read():
    assert table(schema_version="1.7").schema_version == "1.7"


KEY = {
    "device": "slide rule", "threads": 2, "dtype": "bfloat16", "backend": "eager", "batch": 4, "torch": "2.14.0",
    "transformers": "5.24.0", "model": "llava_next", "parameters": 1001,
}  # fmt: skip


@pytest.mark.parametrize("field", KEY)
def test_a_table_of_somewhere_else_is_refused(field):
    here = table().key
    table().check(here)
    with pytest.raises(ConfigError, match=f"{field} = {getattr(here, field)!r}, and this is {KEY[field]!r}"):
        table().check(here.model_copy(update={field: KEY[field]}))


def test_the_first_field_that_differs_is_named():
    other = table().key.model_copy(update={"batch": 4, "decoder": {"layers": 4, "hidden": 96}})
    with pytest.raises(ConfigError, match="batch = 8, and this is 4; make a table here with vispco profile"):
        table().check(other)
    with pytest.raises(ConfigError, match=r"decoder.hidden = 48, and this is 96"):
        table().check(table().key.model_copy(update={"decoder": {"layers": 4, "hidden": 96}}))


# --- curves ----------------------------------------------------------------------------------------------------------


def test_curves_are_straight_between_their_points():
    found = Curve(tokens=(2.0, 4.0, 8.0), seconds=(1.0, 2.0, 2.0))
    at = torch.tensor([2.0, 3.0, 4.0, 6.0, 8.0], dtype=torch.float64)
    assert found(at).tolist() == [1.0, 1.5, 2.0, 2.0, 2.0]


def test_a_curve_has_at_its_points_the_slope_of_what_more_tokens_cost():
    found = Curve(tokens=(2.0, 4.0, 8.0), seconds=(1.0, 2.0, 6.0))
    at = torch.tensor([2.0, 4.0, 5.0, 8.0], dtype=torch.float64, requires_grad=True)
    found(at).sum().backward()
    assert at.grad.tolist() == [0.5, 1.0, 1.0, 1.0]


def test_a_curve_of_one_point_is_flat():
    found = Curve(tokens=(2.0,), seconds=(1.0,))
    assert found(torch.tensor([2.0, 3.0], dtype=torch.float64)).tolist() == [1.0, 1.0]


def test_a_kind_that_no_layer_is_of():
    """Such a table can be written by hand; the kind takes no time."""
    [full, sliding] = data()["kinds"]
    assert LatencyCost(SMALL, [(6, 16)], table=table(kinds=[full, sliding, sliding]), selector="fastv").exact(KEEP) == (
        cost().exact(KEEP)
    )
