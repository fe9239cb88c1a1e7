"""Answers by stock ``generate``: what a user of an exported configuration gets."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vispco.data import Sample
from vispco.evaluation.prompts import prompt_text


@torch.no_grad()
def generate_answers(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    max_new_tokens: int,
    advance: Callable[[int], None] | None = None,
) -> list[str]:
    """Greedy answers, one per sample; call it inside ``with prune(...)`` for a pruned model."""
    answers: list[str] = []
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        texts = [prompt_text(processor, sample.question) for sample in part]
        inputs = processor(text=texts, images=[[s.image] for s in part], padding=True, return_tensors="pt")
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
        if advance:
            advance(len(part))
    return answers
