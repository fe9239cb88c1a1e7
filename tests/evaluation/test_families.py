"""The evaluator on every family: answers are appended to prompts without changing what the prompt sees."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vispco.engine import prune
from vispco.evaluation import Evaluator
from vispco.testing import MODELS, SELECTORS, Case
from vispco.testing.models import Sample as Prompt

ANSWERS = {"short": [11], "long": [12, 13, 14]}
ASKED = [("1", "long"), ("4", "short")]


class Tokenizer:
    pad_token_id = 0

    def __call__(self, text, add_special_tokens):
        return {"input_ids": ANSWERS[text]}


class Processor:
    """A processor whose prompts are those of a tiny model; a question is the seed of one."""

    def __init__(self, model):
        self.model, self.tokenizer = model, Tokenizer()

    def apply_chat_template(self, turns, add_generation_prompt):
        return turns[0]["content"][1]["text"]

    def __call__(self, text, images, padding, return_tensors):
        return self.model.inputs([Prompt(2, 1, 3 + int(seed), seed=int(seed)) for seed in text])


@pytest.mark.parametrize("name", list(MODELS))
def test_an_appended_answer_changes_nothing_before_it(name):
    model = MODELS[name]
    case = Case(model, SELECTORS["fastv"], model.backends[0])
    samples = [SimpleNamespace(index=seed, image=None, question=seed, answer=answer) for seed, answer in ASKED]
    evaluator = Evaluator(case.net, Processor(model), samples)
    prompts = Processor(model)(["1", "4"], None, True, "pt")
    stock = case.net(**prompts).logits[:, -1].log_softmax(dim=-1)
    torch.testing.assert_close(evaluator.batches[0].teacher[:, 0], stock, atol=1e-4, rtol=1e-4)
    keep = case.config().keep
    with prune(case.net, case.config()):
        pruned = case.net(**prompts).logits[:, -1].log_softmax(dim=-1)
    [quality] = evaluator.evaluate([keep])
    one_token = (stock.exp() * (stock - pruned)).sum(dim=-1)[1]
    assert quality.kl[1] == pytest.approx(float(one_token), rel=0.02, abs=5e-7)
    assert (stock - pruned).abs().max() > 1e-3, "the schedule changes nothing, so that this showed nothing"
    [unpruned] = evaluator.evaluate([(1.0,) * case.layers])
    assert np.abs(unpruned.kl).max() < 1e-5
