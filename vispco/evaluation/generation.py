"""Answers by stock ``generate``: what a user of an exported configuration gets."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

from vispco.capacity import within_memory
from vispco.data import Sample
from vispco.engine.placing import device_of
from vispco.evaluation.prompts import encode_samples


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
    """Greedy answers, one per sample; call it inside ``with prune(...)`` for a pruned model.

    Raises
    ------
    CapacityError
        If a batch does not fit into memory, with the size of one that does.
    DataError
        As :func:`vispco.evaluation.prompts.encode_samples`.
    """
    answers: list[str] = []
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        answer = partial(_answer, model, processor, part, max_new_tokens)
        answers += within_memory(answer, len(part), "data.batch_size")
        if advance:
            advance(len(part))
    return answers


def _answer(model: Any, processor: Any, samples: Sequence[Sample], max_new_tokens: int, size: int) -> list[str]:
    """Answers to the first ``size`` samples, as one batch."""
    inputs = encode_samples(processor, samples[:size])
    said = _generate(model, processor, inputs, do_sample=False, max_new_tokens=max_new_tokens)
    return [text.strip() for text in said]


def generate_texts(
    model: Any, processor: Any, prompts: Sequence[str], images: Sequence[Sequence[Image.Image]], **options: Any
) -> list[str]:
    """What ``generate`` adds to a batch of prompts, without special tokens.

    Parameters
    ----------
    model, processor
        From :func:`vispco.engine.load_checkpoint`.
    prompts : sequence of str
        From :func:`prompt_text`.
    images : sequence of sequences of images
        Those of every prompt, at least one each, or none at all.
    **options
        Of ``generate``.
    """
    pictures = [list(own) for own in images] if any(images) else None
    inputs = processor(text=list(prompts), images=pictures, padding=True, return_tensors="pt")
    return _generate(model, processor, inputs, **options)


def _generate(model: Any, processor: Any, inputs: Any, **options: Any) -> list[str]:
    inputs = inputs.to(device_of(model))
    tokens = model.generate(**inputs, **options)
    said: list[str] = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said
