"""Calibration measures what a table is asked about, works for every family, and refuses what it cannot use."""

from types import SimpleNamespace

import pytest
import torch
from builders import build_batch

from vispco.cost import GenerationCost, LatencyCost, LatencyTable
from vispco.data import load_samples
from vispco.engine.families import describe
from vispco.errors import ConfigError
from vispco.evaluation.prompts import prompt_text
from vispco.profiling import calibrate, calibrate_for, table_key
from vispco.profiling.calibration import inputs_of
from vispco.profiling.fitting import fit_curve, not_negative, reach_down
from vispco.profiling.plan import Plan, Prompt, Run
from vispco.testing.models import MODELS, Sample

QUICK = {"batch": 1, "repeats": 1, "seconds": 0.0, "drift": 1e9}


PROMPT = build_batch([(3, 5)], [1])


# --- what is measured ------------------------------------------------------------------------------------------------


def test_no_round_begins_after_its_time(tiny_llava):
    found = calibrate(tiny_llava, [PROMPT], {"random": {}}, **{**QUICK, "repeats": 5})
    assert found.protocol.repeats == 3


def test_the_plan_covers_the_data():
    prompts = [Prompt({"input_ids": torch.zeros(1, text + visual)}, text, visual, 1) for text, visual in
               ((9, 16), (4, 40), (20, 16))]  # fmt: skip
    plan = Plan(prompts, 6, ["fastv"], 32)
    assert (plan.smallest, plan.largest, plan.fewest) == (prompts[0], prompts[1], prompts[1])
    assert plan.runs.count(plan.baseline) == 3
    grid = {
        run.counts for run in plan.runs if run.selector == "random" and run.prompt is plan.largest and not run.steps
    }
    assert grid == {(count,) * 6 for count in (39, 35, 30, 25, 20, 15, 10, 5, 0)}
    chosen = [run.counts for run in plan.runs if run.selector == "fastv" and run.prompt is plan.largest]
    assert chosen == [(40, *[35] * 5), (40, *[20] * 5), (40, *[5] * 5), (40, 40, 40, 40, 20, 20),
                      (40, 35, 35, 35, 5, 5)]  # fmt: skip
    longest = max((run.prompt for run in plan.runs), key=lambda prompt: prompt.total)
    assert longest.total == 44 + 32 - 4
    assert longest.inputs["input_ids"].shape == (1, longest.total)


def test_every_image_keeps_a_token_but_where_nothing_is_left():
    prompt = Prompt({"input_ids": torch.zeros(1, 30)}, 6, 24, 7)
    counts = {run.counts[-1] for run in Plan([prompt], 4, ["fastv"], 1).runs}
    assert min(counts - {0}) == 7
    assert max(counts - {24}) == 23


def test_layers_that_gather_for_a_cut():
    """Its own, and the first after it of every other kind, which has a mask of its own."""
    prompt = Prompt({}, 3, 16, 1)
    assert Run(prompt, (16, 8, 8, 8, 2, 2)).touched([0, 0, 0, 1, 0, 1]) == {1: [1, 3], 4: [4, 5]}
    assert Run(prompt, (16, 8, 8, 8)).touched([0] * 4) == {1: [1]}
    assert Run(prompt, (16,) * 4).touched([0] * 4) == {}


def test_cuts_of_a_run():
    prompt = Prompt({}, 3, 16, 1)
    run = Run(prompt, (16, 8, 8, 2))
    assert (run.cuts, run.tokens) == ([1, 3], (19, 11, 11, 5))
    assert [run.before(cut) for cut in run.cuts] == [16, 8]
    assert Run(prompt, (4, 4)).cuts == [0]
    assert Run(prompt, (4, 4)).before(0) == 16
    assert Run(prompt, (16, 16)).cuts == []


# --- every family ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_family_has_a_table(name):
    tiny = MODELS[name]
    model = tiny.build()
    inputs = [tiny.inputs([Sample(2, images, 5, seed=images)]) for images in (1, 2)]
    found = calibrate(model, inputs, {"random": {}, "fastv": {}}, new_tokens=5, **QUICK)
    assert LatencyTable.from_json(found.to_json()) == found
    found.check(table_key(model, 1))
    family = describe(model)
    assert [found.kinds[kind].window for kind in found.layers] == list(family.windows)
    tokens = [(prompt.text, prompt.visual, prompt.images) for prompt in (Prompt.of(family, one, 1) for one in inputs)]
    layers = len(family.layers)
    for cost in (
        LatencyCost(model.config, tokens, found, "fastv"),
        GenerationCost(model.config, tokens, found, "random", new_tokens=5),
    ):
        assert cost.unpruned > 0
        assert 0 < cost.exact((1.0, *[0.3] * (layers - 1))) < 10
        assert torch.isfinite(cost.soft(torch.linspace(1.0, 0.0, layers)))


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def micro():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from vispco.embedded import locate

    folder = locate("micro-llava")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval().requires_grad_(False)
    return model, AutoProcessor.from_pretrained(folder)


def test_a_table_of_samples_reaches_to_all_of_them(micro):
    model, processor = micro
    samples = load_samples("shapes", "validation", 12, seed=7)
    found = calibrate_for(model, processor, samples, {"fastv": {}}, **QUICK)
    assert found.key == table_key(model, 1)
    sizes = {inputs_of(model, processor, [sample])["input_ids"].shape[1] for sample in samples}
    assert len(sizes) > 2
    LatencyCost(model.config, [(size - 100, 100) for size in sizes], found, "fastv")
    kind = found.kinds[0]
    assert (kind.pruned.tokens[0], found.outside.tokens[-1]) == (min(sizes) - 100, max(sizes))


def test_prompts_of_samples_have_no_answers_and_the_models_dtype(micro):
    model, processor = micro
    samples = load_samples("shapes", "validation", 2, seed=7)[:1] * 3
    inputs = inputs_of(model.to(torch.bfloat16), processor, samples)
    try:
        assert inputs["pixel_values"].dtype == torch.bfloat16
        assert inputs["input_ids"].dtype == torch.int64
        text = prompt_text(processor, samples[0].question)
        asked = processor(text=[text] * 3, images=[[samples[0].image]] * 3, return_tensors="pt")
        assert torch.equal(inputs["input_ids"], asked["input_ids"])
        assert Prompt.of(describe(model), inputs, 3).visual == 100
    finally:
        model.float()


# --- where a table is valid ------------------------------------------------------------------------------------------


def test_the_key_names_what_times_depend_on(tiny_llava, monkeypatch):
    key = table_key(tiny_llava, 4)
    assert (key.batch, key.threads, key.dtype, key.backend, key.model) == (4, 1, "float32", "sdpa", "llava")
    assert key.torch == torch.__version__
    assert key.decoder["layers"] == 4
    assert key.parameters == sum(parameter.numel() for parameter in tiny_llava.parameters())
    assert torch.backends.cpu.get_cpu_capability() in key.device
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert table_key(tiny_llava, 4).threads == 2


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clock": "sundial"}, "clock 'sundial' is unknown on cpu; choose one of wall, cpu"),
        ({"repeats": 0}, "repeats = 0 and new_tokens = 32 must be 1 or more"),
        ({"new_tokens": 0}, "new_tokens = 0 must be 1 or more"),
        ({"batch": 2}, "comes 1 times where batch is 2"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(tiny_llava, options, message):
    with pytest.raises(ConfigError, match=message):
        calibrate(tiny_llava, [PROMPT], {"random": {}}, **{**QUICK, **options})


@pytest.mark.parametrize(("inputs", "selectors"), [([], {"random": {}}), ([PROMPT], {})])
def test_nothing_to_measure_is_refused(tiny_llava, inputs, selectors):
    with pytest.raises(ConfigError, match="nothing to measure"):
        calibrate(tiny_llava, inputs, selectors, **QUICK)


def test_prompts_that_differ_or_are_padded_are_refused(tiny_llava):
    different = build_batch([(3, 5), (3, 5)], [1, 1])
    padded = {**PROMPT, "attention_mask": PROMPT["attention_mask"].index_fill(1, torch.tensor([0]), 0)}
    for inputs, batch in ((different, 2), (padded, 1)):
        with pytest.raises(ConfigError, match="differ or are padded"):
            calibrate(tiny_llava, [inputs], {"random": {}}, **{**QUICK, "batch": batch})


def test_a_prompt_without_an_image_is_refused(tiny_llava):
    with pytest.raises(ConfigError, match="0 visual tokens in 0 images"):
        calibrate(tiny_llava, [build_batch([(3, 5)], [0])], {"random": {}}, **QUICK)


@pytest.mark.parametrize(("samples", "batch"), [([], 1), ([SimpleNamespace()], 0)])
def test_no_samples_or_no_batch_is_refused(samples, batch):
    with pytest.raises(ConfigError, match=f"{len(samples)} samples in batches of {batch} cannot be timed"):
        calibrate_for(None, None, samples, {"random": {}}, batch=batch)


# --- fits ------------------------------------------------------------------------------------------------------------


def test_what_falls_is_pooled_by_how_often_it_was_measured():
    assert fit_curve({1: [1.0], 2: [3.0], 3: [2.0], 4: [4.0]}).seconds == pytest.approx((1.0, 2.5, 2.5, 4.0))
    assert fit_curve({1: [4.0], 2: [2.0], 3: [0.0] * 4}).seconds == pytest.approx((1.0, 1.0, 1.0))


def test_a_curve_has_medians_and_reaches_to_its_ends():
    found = fit_curve({4.0: [9.0, 1.0, 2.0], 8.0: [6.0]}, 2, 12)
    assert (found.tokens, found.seconds) == ((2.0, 4.0, 8.0, 12.0), (2.0, 2.0, 6.0, 9.0))


def test_whole_layers_reach_down_as_far_as_pruned_ones():
    """Below the first whole prompt, pruned layers times 6 / 4, by which the whole one is slower there."""
    whole, pruned = fit_curve({20.0: [6.0], 30.0: [9.0]}), fit_curve({5.0: [1.0], 10.0: [2.0], 30.0: [6.0]})
    found = reach_down(whole, pruned)
    assert (found.tokens, found.seconds) == ((5.0, 10.0, 20.0, 30.0), (1.5, 3.0, 6.0, 9.0))
    assert reach_down(pruned, pruned) == pruned


def test_coefficients_are_found_and_never_negative():
    rows = [(1.0, float(n), float(n * n)) for n in (1, 2, 5, 9)]
    assert not_negative([(row, 3 + 0.5 * row[2]) for row in rows]) == pytest.approx((3, 0, 0.5), abs=1e-6)
    falling = not_negative([(row, 10 - row[1]) for row in rows])
    assert falling == pytest.approx((sum(10 - n for n in (1, 2, 5, 9)) / 4, 0, 0))
    assert not_negative([((1.0, 0.0), 2.0)]) == (2.0, 0.0)
