"""Ways of generating on a pruned cache, for families that differ in cache and positions, against the masked model."""

import pytest
import torch

from vispco import prune
from vispco.engine.families import describe
from vispco.engine.selftest import masked_keys, tokens_there
from vispco.testing import MODELS, SELECTORS, Case, Sample
from vispco.testing.conformance import SINGLE

FASTV = SELECTORS["fastv"]
KINDS = ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma2", "smolvlm"]
NEW = 7


def make(name, samples=None):
    return Case(MODELS[name], FASTV, MODELS[name].backends[0], **({"samples": samples} if samples else {}))


def generate(case, **options):
    torch.manual_seed(0)
    placeholders = list(describe(case.net).visual_ids)
    return case.net.generate(**case.inputs, max_new_tokens=NEW, suppress_tokens=placeholders, **options)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_k": 0, "temperature": 4.0, "num_return_sequences": 2},
        {"do_sample": True, "top_k": 0, "temperature": 4.0, "num_beams": 2},
    ],
    ids=["beams", "samples", "beam samples"],
)
def test_searches_find_what_they_find_in_the_masked_model(name, options):
    # One image each: releases before 5.18 give repeated rows the images of their neighbours otherwise.
    case = make(name, (Sample(2, 1, 5, seed=1), Sample(1, 1, 7, seed=2), Sample(2, 1, 9, seed=4)))
    options = {**options, "output_logits": True, "return_dict_in_generate": True}
    with prune(case.net, case.config()) as pruned:
        ours = generate(case, **options)
        kept = pruned.kept
    repeated = len(kept[0]) // len(case.samples)
    assert repeated == max(options.get("num_beams", 1), options.get("num_return_sequences", 1))
    visual, real = (mask.repeat_interleave(repeated, dim=0) for mask in (case.visual, case.real))
    there = tokens_there(visual, real, kept)
    with masked_keys(list(describe(case.net).layers), there):
        theirs = generate(case, **options)
    assert torch.equal(ours.sequences, theirs.sequences)
    for step, (a, b) in enumerate(zip(ours.logits, theirs.logits, strict=True)):
        case.check_close(a, b, f"logits of step {step} differ")
    unpruned = generate(case, **options).logits[0]
    assert (ours.logits[0] - unpruned).abs().max() > 0.1, "the schedule changes nothing, so that this showed nothing"


@pytest.mark.parametrize("name", KINDS)
def test_prompt_lookup_steps_back_on_a_pruned_cache(name):
    """Assisted decoding checks several guesses at once and crops the wrong ones: the text is that of plain decoding."""
    case = make(name, SINGLE)
    with prune(case.net, case.config()):
        plain = generate(case, do_sample=False)
        # Releases before 5.16 need a token that ends a text, and may return one token more.
        guessed = generate(case, do_sample=False, prompt_lookup_num_tokens=3, eos_token_id=100_000)
    assert torch.equal(plain, guessed[:, : plain.shape[1]])


@pytest.mark.parametrize("name", KINDS)
def test_a_second_turn_on_a_pruned_cache(name):
    case = make(name, SINGLE)
    more = torch.randint(10, 64, (1, 5), generator=torch.Generator().manual_seed(5))
    length = case.inputs["input_ids"].shape[1]
    turn = {"input_ids": more, "use_cache": True, "attention_mask": torch.ones(1, length + 5, dtype=torch.long)}
    if name.startswith("qwen"):  # stock models of this family ask for positions in three axes
        turn["position_ids"] = (torch.arange(5) + 40).expand(3, 1, 5)
    with prune(case.net, case.config()) as pruned:
        first = case.net(**case.inputs, use_cache=True).past_key_values
        second = case.net(**turn, past_key_values=first).logits
        third = case.net(**{**turn, "attention_mask": torch.ones(1, length + 10)}, past_key_values=first).logits
    with case.masked(pruned.kept):
        cache = case.net(**case.inputs, use_cache=True).past_key_values
        case.check_close(second, case.net(**turn, past_key_values=cache).logits, "the second turn differs")
        turn["attention_mask"] = torch.ones(1, length + 10)
        case.check_close(third, case.net(**turn, past_key_values=cache).logits, "the third turn differs")


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_loop_without_positions_continues_from_the_unpruned_length(name):
    """A hand-written loop leaves positions to the model, which takes them from the cache's length."""
    case = make(name, SINGLE)
    with prune(case.net, case.config()):
        text = generate(case, do_sample=False)[:, case.inputs["input_ids"].shape[1] :]
        out = case.net(**case.inputs, use_cache=True)
        said = []
        for _ in range(NEW):
            logits = out.logits[:, -1].index_fill(1, torch.tensor(describe(case.net).visual_ids), -torch.inf)
            said.append(logits.argmax(dim=-1, keepdim=True))
            out = case.net(input_ids=said[-1], past_key_values=out.past_key_values, use_cache=True)
    assert torch.equal(torch.cat(said, dim=1), text)


def test_forwards_of_the_caller_do_not_remember_each_other():
    """Only ``generate`` continues a text without a cache: a longer prompt with another image is another prompt."""
    case = make("llava", SINGLE)
    ids = torch.cat([case.inputs["input_ids"], torch.tensor([[11]])], dim=1)
    other = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": -case.inputs["pixel_values"]}
    with prune(case.net, case.config()) as pruned:
        alone = case.net(**other, use_cache=False).logits
        kept = pruned.kept
        case.net(**case.inputs, use_cache=False)
        assert not all(map(torch.equal, kept, pruned.kept)), "both keep the same, so that this shows nothing"
        assert torch.equal(case.net(**other, use_cache=False).logits, alone)


def test_an_interrupted_text_is_forgotten():
    """What a step without a cache left behind is gone when the call ends, however it ends."""
    case = make("llava", SINGLE)

    def interrupt(ids, scores, **kwargs):
        raise KeyboardInterrupt

    with prune(case.net, case.config()):
        expected = generate(case, do_sample=False, use_cache=False)
        with pytest.raises(KeyboardInterrupt):
            generate(case, do_sample=False, use_cache=False, stopping_criteria=[interrupt])
        assert case.net.generate.previous is None
        assert not case.net.generate.running
        assert torch.equal(generate(case, do_sample=False, use_cache=False), expected)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_plain_forward_returns_a_cache_that_can_go_on(name):
    """``use_cache`` unset: the model's default, whoever makes the cache."""
    case = make(name, SINGLE)
    with prune(case.net, case.config()) as pruned:
        filled = case.net(**case.inputs).past_key_values
        assert pruned.kv_bytes > 0
    assert {type(layer).__name__ for layer in filled.layers} == {"LogicalLayer"}
    assert filled.get_seq_length() == case.inputs["input_ids"].shape[1]


def test_without_a_cache_no_bytes_are_reported():
    case = make("llava", SINGLE)
    with prune(case.net, case.config()) as pruned:
        case.net(**case.inputs, use_cache=False)
    assert pruned.kv_bytes == 0
