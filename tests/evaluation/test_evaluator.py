"""The evaluator: shared work changes nothing, scores are those of `generate`, the ledger charges what runs."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vispco import PruningConfig, prune
from vispco.cost import count_flops
from vispco.data import load_samples, make_scorer
from vispco.engine import load_checkpoint, model_card
from vispco.errors import ConfigError, DataError, ModelError
from vispco.evaluation import (
    Candidate,
    Evaluator,
    Ledger,
    Provenance,
    generate_answers,
    measure,
    prepare,
    prompt_fingerprint,
    prompt_sizes,
    prompt_text,
)
from vispco.evaluation.prompts import END
from vispco.profiling import peak_bytes

KEEP = (1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.1, 0.1)
SCHEDULES = [(1.0,) * 8, KEEP, (1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.3, 0.3), (1.0, 1.0) + (0.05,) * 6]


@pytest.fixture(scope="module")
def micro():
    return load_checkpoint("micro-llava")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples("shapes", "validation", 48, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def evaluator(micro, samples):
    return Evaluator(*micro, samples, batch_size=20)


def test_the_teacher_is_the_stock_model(micro, samples, evaluator):
    model, processor = micro
    texts = [prompt_text(processor, sample.question) for sample in samples[:20]]
    inputs = processor(text=texts, images=[[s.image] for s in samples[:20]], padding=True, return_tensors="pt")
    stock = model(**inputs).logits[:, -1].log_softmax(-1)
    torch.testing.assert_close(evaluator.batches[0].teacher[:, 0], stock, atol=1e-5, rtol=1e-4)


def test_the_unpruned_schedule_has_no_divergence(evaluator):
    quality = evaluator.evaluate([(1.0,) * 8])[0]
    assert np.abs(quality.kl).max() < 1e-6
    assert quality.kl.shape == quality.score.shape == (48,)


def test_the_divergence_is_that_of_the_pruned_model_from_the_stock_one(micro, samples, evaluator):
    """KL(unpruned || pruned) at the answer's token, from the logits of stock and pruned forwards."""
    model, processor = micro
    texts = [prompt_text(processor, sample.question) for sample in samples[:20]]
    inputs = processor(text=texts, images=[[s.image] for s in samples[:20]], padding=True, return_tensors="pt")
    stock = model(**inputs).logits[:, -1].double().log_softmax(-1)
    with prune(model, PruningConfig(selector="fastv", keep=KEEP, model=model_card(model))):
        pruned = model(**inputs).logits[:, -1].double().log_softmax(-1)
    expected = (stock.exp() * (stock - pruned)).sum(dim=-1)
    np.testing.assert_allclose(evaluator.evaluate([KEEP])[0].kl[:20], expected.numpy(), atol=1e-4, rtol=1e-3)
    turned = (pruned.exp() * (pruned - stock)).sum(dim=-1)
    assert float((turned - expected).abs().max()) > 0.01, "both directions agree, so the test shows nothing"


def test_an_answer_that_goes_on_is_wrong(evaluator):
    stop, word, other = 2, 7, 8
    said = torch.tensor([[word, stop], [word, other], [other, stop], [word, word]])
    logits = torch.nn.functional.one_hot(said, 51).float()
    batch = SimpleNamespace(targets=torch.tensor([[word, END], [word, END], [word, END], [word, word]]))
    assert evaluator.right(batch, logits).tolist() == [True, False, False, True]


def test_common_beginnings_change_nothing(evaluator):
    together = evaluator.evaluate(SCHEDULES)
    for schedule, shared in zip(SCHEDULES, together, strict=True):
        alone = evaluator.evaluate([schedule])[0]
        np.testing.assert_allclose(shared.kl, alone.kl, atol=1e-6)
        np.testing.assert_array_equal(shared.score, alone.score)


def test_batches_change_nothing(micro, samples, evaluator):
    one = Evaluator(*micro, samples, batch_size=48).evaluate([KEEP])[0]
    np.testing.assert_allclose(one.kl, evaluator.evaluate([KEEP])[0].kl, atol=1e-5)


@pytest.mark.parametrize("keep", SCHEDULES[1:])
def test_scores_are_those_of_generate(micro, samples, evaluator, keep):
    model, processor = micro
    config = PruningConfig(selector="fastv", keep=keep, model=model_card(model))
    with prune(model, config):
        said = generate_answers(model, processor, samples, batch_size=16, max_new_tokens=4)
    generated = [make_scorer("exact_match").score(text, sample) for text, sample in zip(said, samples, strict=True)]
    np.testing.assert_array_equal(evaluator.evaluate([keep])[0].score, generated)
    assert 0 < sum(generated) < len(generated), "all right or all wrong shows nothing"


def test_a_limit_takes_the_first_samples(evaluator):
    whole, part = evaluator.evaluate([KEEP])[0], evaluator.evaluate([KEEP], limit=30)[0]
    np.testing.assert_allclose(part.kl, whole.kl[:30], atol=1e-5)


def test_the_ledger_charges_layers_that_ran_once(micro, samples):
    ledger = Ledger()
    evaluator = Evaluator(*micro, samples[:8], ledger=ledger)
    assert ledger.forwards == pytest.approx(8)
    ledger.forwards = 0.0
    evaluator.evaluate([KEEP])
    alone = ledger.forwards
    config = micro[0].config
    text = [int(t) for t in evaluator.batches[0].text_tokens]

    def layers_only(keep):
        reports = [count_flops(config, t, 100, keep) for t in text]
        return sum((r.total - r.lm_head) / (r.unpruned - r.lm_head) for r in reports)

    assert alone == pytest.approx(layers_only(KEEP), rel=1e-9)
    ledger.forwards = 0.0
    evaluator.evaluate([KEEP, (*KEEP[:7], 0.05)])
    assert alone < ledger.forwards < alone + layers_only((1.0,) * 8) / 8


# --- schedules of single samples -------------------------------------------------------------------------------------


def drawn_tables(samples, number=3):
    """Schedules per sample, shape (number, samples, layers); the first two agree up to layer 4."""
    tables = np.sort(np.random.default_rng(5).uniform(0.02, 1.0, (number, samples, 8)), axis=2)[..., ::-1].copy()
    tables[:, :, 0] = 1.0
    tables[1, :, :5] = tables[0, :, :5]
    tables[1, :, 5:] = tables[0, :, 7:] / 2
    return tables


def test_every_sample_may_have_a_schedule_of_its_own(micro, samples):
    """As in an evaluator of that sample alone, beside schedules for all of them, across batches."""
    tables = drawn_tables(11)
    together = Evaluator(*micro, samples[:11], batch_size=4)
    found = together.evaluate([tables[0], KEEP, tables[1].tolist(), torch.from_numpy(tables[2])])
    alone = [Evaluator(*micro, samples[index : index + 1]) for index in range(11)]
    for index, single in enumerate(alone):
        mine = [tuple(tables[0, index]), KEEP, tuple(tables[1, index]), tuple(tables[2, index])]
        for quality, expected in zip(found, single.evaluate(mine), strict=True):
            assert quality.kl[index] == pytest.approx(expected.kl[0], abs=1e-5)
            assert quality.score[index] == expected.score[0]
    assert np.abs(found[0].kl - found[3].kl).max() > 0.1, "the schedules are alike, so that this showed nothing"
    cut = together.evaluate([tables[0]], limit=6)[0]
    np.testing.assert_allclose(cut.kl, found[0].kl[:6], atol=1e-5)


def test_schedules_of_single_samples_share_their_beginnings_and_are_charged(micro, samples):
    tables, ledger = drawn_tables(10), Ledger()
    evaluator = Evaluator(*micro, samples[:10], ledger=ledger, batch_size=4)
    text = [int(t) for batch in evaluator.batches for t in batch.text_tokens]

    def charged(schedules):
        ledger.forwards = 0.0
        evaluator.evaluate(schedules)
        return ledger.forwards

    def layers_only(table, start=0):
        return sum(
            sum(evaluator.shape.layer(float(t + max(1, np.floor(100 * ratio + 0.5)))) for ratio in keep[start:])
            / (8 * evaluator.shape.layer(float(t + 100)))
            for t, keep in zip(text, table, strict=True)
        )

    assert charged([tables[0]]) == pytest.approx(layers_only(tables[0]), rel=1e-9)
    both = layers_only(tables[0]) + layers_only(tables[1], start=5)
    assert charged([tables[0], tables[1]]) == pytest.approx(both, rel=1e-9)
    assert charged([np.tile(KEEP, (10, 1)), KEEP]) == pytest.approx(charged([KEEP]), rel=1e-12)


@pytest.mark.parametrize("shape", [(7,), (9,), (47, 8), (49, 8), (48, 7), (1, 48, 8), ()])
def test_schedules_of_another_shape_are_refused(evaluator, shape):
    text = rf"^a schedule of shape {re.escape(str(shape))} cannot be used; give \(8,\).* or \(48, 8\)"
    with pytest.raises(ConfigError, match=text):
        evaluator.evaluate([KEEP, np.ones(shape)])


@pytest.mark.parametrize(("place", "value"), [((40, 3), 1.2), ((40, 3), -0.1), ((40, 3), 0.05), ((40, 3), np.nan)])
def test_rows_that_are_no_schedules_are_refused(evaluator, place, value):
    table = np.tile(KEEP, (48, 1))
    table[place] = value
    with pytest.raises(ConfigError, match=r"keep\["):
        evaluator.evaluate([table])


def test_sharing_samples_with_another_selector(micro, samples, evaluator):
    other = evaluator.share("random", {"seed": 0})
    direct = Evaluator(*micro, samples, "random", {"seed": 0}, batch_size=20)
    np.testing.assert_allclose(other.evaluate([KEEP])[0].kl, direct.evaluate([KEEP])[0].kl, atol=1e-6)
    keep = (1.0, 0.5) + (0.5,) * 6
    text, visual, *_ = evaluator.cost().kinds[0]
    row = 2 * (text + visual) * evaluator.shape.heads * evaluator.shape.head_dim
    costs = [one.cost().exact(keep) * one.cost().unpruned for one in (evaluator, other)]
    assert costs[0] - costs[1] == pytest.approx(row, rel=0.05)


@pytest.mark.parametrize("number", [48, 27])
def test_a_selector_that_looks_at_the_vision_tower_shares_too(micro, samples, evaluator, number):
    """What was captured for FastV has nothing of the tower; batches cut short have other padding."""
    part = evaluator.head(number, Ledger())
    [shared] = part.share("vispruner").evaluate([KEEP])
    [alone] = Evaluator(*micro, samples[:number], "vispruner", batch_size=20).evaluate([KEEP])
    np.testing.assert_allclose(shared.kl, alone.kl, atol=1e-5)
    [fastv] = part.evaluate([KEEP])
    assert np.abs(fastv.kl - shared.kl).max() > 0.1
    again = part.share("vispruner").share("fastervlm", {})
    assert again.batches[0].captured.pictured.keys() >= {"tower_row"}


def test_candidates_with_settings_of_their_own_are_measured_with_them(micro, evaluator):
    """In their order, each as by an evaluator of those settings, with progress over all of them as one pass."""
    provenance, steps = Provenance.of(*micro, seed=0), []
    tuned = [Candidate(f"{alpha}", "tpe", KEEP, params={"alpha": alpha}) for alpha in (1.0, 0.0, 1.0)]
    base = evaluator.share("balanced_fastv", {"alpha": 0.5})
    plain = Candidate("plain", "tpe", KEEP)
    candidates = [tuned[0], plain, *tuned[1:]]
    measured = measure(base, candidates, provenance, split="validation", advance=steps.append)
    assert [point.name for point, _ in measured] == ["1.0", "plain", "0.0", "1.0"]
    assert [point.selector_params["alpha"] for point, _ in measured] == [1.0, 0.5, 0.0, 1.0]
    for point, quality in measured:
        [alone] = evaluator.share("balanced_fastv", point.selector_params).evaluate([KEEP])
        np.testing.assert_allclose(quality.kl, alone.kl, atol=1e-6)
    assert measured[0][0].quality["kl"] != measured[2][0].quality["kl"]
    assert sum(steps) == pytest.approx(48)


def test_answers_of_several_tokens_are_forced_and_have_to_end(micro, samples):
    from dataclasses import replace

    _, processor = micro
    long = replace(samples[0], answer="red circle")
    batch = prepare(processor, [samples[1], long])
    words = processor.tokenizer.convert_tokens_to_ids
    assert batch.targets.tolist()[1] == [words("red"), words("circle"), -1]
    assert batch.targets.tolist()[0][1:] == [-1, -2]
    assert batch.inputs["input_ids"][1, -2:].tolist() == [words("red"), words("circle")]
    assert batch.inputs["attention_mask"][0, -1] == 0
    assert batch.rows[0].tolist() == [int(batch.query[0]) + i for i in range(3)]
    right = Evaluator(*micro, [samples[0]]).evaluate([(1.0,) * 8])[0].score
    wrong = Evaluator(*micro, [long]).evaluate([(1.0,) * 8])[0].score
    assert right >= wrong == 0


def test_empty_answers_and_missing_templates_are_refused(micro, samples):
    from dataclasses import replace

    with pytest.raises(DataError, match="has no tokens"):
        prepare(micro[1], [replace(samples[0], answer="")])

    class Plain:
        def apply_chat_template(self, *args, **kwargs):
            raise ValueError("no template is set")

    with pytest.raises(ModelError, match="no chat template"):
        prompt_text(Plain(), "what ?")


def test_prompt_fingerprints_depend_on_the_template(micro):
    processor = micro[1]
    before = prompt_fingerprint(processor)
    stock = processor.chat_template
    processor.chat_template = stock.replace("<answer>", "<eos><answer>")
    try:
        assert prompt_fingerprint(processor) != before
    finally:
        processor.chat_template = stock
    assert prompt_fingerprint(processor) == before


@pytest.mark.parametrize("change", [{"max_pixels": 28 * 28 * 16}, {"min_pixels": 28 * 28 * 300}])
def test_prompt_fingerprints_depend_on_how_pictures_become_tokens(change):
    from transformers import Qwen2VLImageProcessor

    def stub(**options):
        """A processor whose prompts are pictures alone."""
        pictures = Qwen2VLImageProcessor(**options)

        def process(text, images, return_tensors):
            (grid,) = pictures(images[0], return_tensors=return_tensors)["image_grid_thw"].tolist()
            return {"input_ids": torch.zeros(1, grid[1] * grid[2] // 4)}

        process.apply_chat_template = lambda messages, add_generation_prompt: "text"
        return process

    assert prompt_fingerprint(stub()) == prompt_fingerprint(stub())
    assert prompt_fingerprint(stub(**change)) != prompt_fingerprint(stub())


def test_sizes_of_prompts_need_no_run_of_the_model(micro, evaluator, samples, monkeypatch):
    tokens = evaluator.cost().tokens
    monkeypatch.setattr(type(micro[0]), "forward", lambda *args, **kwargs: pytest.fail("the model was run"))
    assert prompt_sizes(*micro, samples, batch_size=3) == tokens


def test_a_walk_holds_the_states_that_schedules_part_from_and_not_every_layers(evaluator):
    """Eight layers: with the output of each held, this would be 17 times the hidden states of the batch."""
    hidden = max(batch.captured.hidden.nbytes for batch in evaluator.batches)
    assert peak_bytes(lambda: evaluator.evaluate([(1.0,) * 8]), "cpu") < 13 * hidden
