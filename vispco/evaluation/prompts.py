"""From samples to batches: prompts through the model's own chat template, answers appended for teacher forcing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vispco.data import Sample, Task
from vispco.engine.families import describe
from vispco.engine.locating import first_line
from vispco.engine.prefill import Prefill, sample_keys
from vispco.errors import DataError, ModelError
from vispco.selectors import make_selector


@dataclass(frozen=True)
class Batch:
    """Prompts and their answers as tensors.

    Attributes
    ----------
    inputs : dict
        For the model; answers stand right of the prompts, their last token left out.
    query : Tensor, shape (batch,)
        Place of the last prompt token.
    rows : Tensor, shape (batch, answers)
        Places whose logits predict the answer's tokens, the first one included, and the end of the text.
    targets : Tensor, shape (batch, answers), int64
        The answer's tokens, then -1 where the text has to end, then -2.
    prompt_tokens : Tensor, shape (batch,)
        Tokens of each prompt without padding.
    """

    inputs: dict[str, Tensor]
    query: Tensor
    rows: Tensor
    targets: Tensor
    prompt_tokens: Tensor


END = -1
"""Target where generation has to stop."""
NOTHING = -2
"""Target of a row that does not count."""


def prompt_text(processor: Any, question: str, images: int = 1) -> str:
    """The prompt for images and, after them, a question.

    Raises
    ------
    ModelError
        If the processor has no chat template.
    """
    content: list[dict[str, str]] = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    try:
        text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    except ValueError as error:
        raise ModelError(f"the processor has no chat template ({error}); save one with the checkpoint") from None
    return text


SIZES = ((56, 84), (640, 480), (1536, 2048))
"""Pictures, width and height in pixels, that processors with other limits make other numbers of tokens of."""


def prompt_fingerprint(processor: Any, task: Task | None = None) -> str:
    """Digest of how a sample becomes a prompt; 16 hexadecimal digits.

    That is the task's template and the model's, and how many tokens the processor makes of small and large pictures.
    """
    bullet = "\N{BULLET}"
    asked = task.prompt.format(question=bullet, hint="", options="") if task else bullet
    text = prompt_text(processor, asked)
    tokens = [processor(text=[text], images=[[Image.new("RGB", size)]], return_tensors="pt") for size in SIZES]
    lengths = [each["input_ids"].shape[1] for each in tokens]
    return hashlib.sha256(f"{text}{lengths}".encode()).hexdigest()[:16]


def encode_samples(processor: Any, samples: Sequence[Sample]) -> Any:
    """Model inputs of the samples' questions and pictures, padded to one batch.

    Raises
    ------
    DataError
        Naming the first sample whose question would be taken for a picture, or which the processor refuses, e.g. for a
        picture that is too narrow for it.
    ModelError
        If the processor has no chat template.
    """
    for sample in samples:
        _check_words(processor, sample, "question", sample.question)
    texts = [prompt_text(processor, sample.question) for sample in samples]
    pictures = [[sample.image] for sample in samples]
    try:
        return processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    except ValueError:
        for sample, text, picture in zip(samples, texts, pictures, strict=True):
            try:
                processor(text=[text], images=[picture], return_tensors="pt")
            except ValueError as error:
                width, height = picture[0].size
                raise DataError(
                    f"sample {sample.index}, whose picture has {width} x {height} pixels, is refused by the model's "
                    f"processor ({first_line(error)}); mend it or leave it out"
                ) from None
        raise  # no single one is at fault


def _check_words(processor: Any, sample: Sample, name: str, text: str) -> None:
    """Refuse a text that holds what stands for a picture in this model's prompts: no picture would belong to it."""
    for source, kind in product((processor, processor.tokenizer), ("image_token", "video_token")):
        token = getattr(source, kind, None)
        if token and token in text:
            raise DataError(
                f"sample {sample.index}: {token!r} in its {name} stands for a picture in this model's prompts; take it "
                "out of the text"
            )


def prepare(processor: Any, samples: Sequence[Sample]) -> Batch:
    """Tokenise samples into one left-padded batch.

    Raises
    ------
    DataError
        If an answer has no tokens or would be taken for a picture, or as :func:`encode_samples`.
    """
    prompts = encode_samples(processor, samples)
    tokenizer = processor.tokenizer
    for sample in samples:
        _check_words(processor, sample, "answer", sample.answer)
    answers = [tokenizer(sample.answer, add_special_tokens=False)["input_ids"] for sample in samples]
    for sample, tokens in zip(samples, answers, strict=True):
        if not tokens:
            raise DataError(f"sample {sample.index}: answer {sample.answer!r} has no tokens; give a word")
    longest = max(map(len, answers))
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    forced = torch.tensor([tokens + [filler] * (longest - len(tokens)) for tokens in answers])
    real = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in answers])
    targets = torch.tensor([tokens + [END] + [NOTHING] * (longest - len(tokens)) for tokens in answers])
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    width = ids.shape[1]
    inputs = {key: value for key, value in prompts.items() if key not in ("input_ids", "attention_mask")}
    inputs["input_ids"] = torch.cat([ids, forced], dim=1)
    inputs["attention_mask"] = torch.cat([mask, real], dim=1)
    if "mm_token_type_ids" in inputs:  # Qwen counts positions by it, and answers are text
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(forced)], dim=1)
    return Batch(
        inputs=inputs,
        query=torch.full((len(samples),), width - 1),
        rows=(width - 1 + torch.arange(longest + 1)).expand(len(samples), -1),
        targets=targets,
        prompt_tokens=mask.sum(dim=1),
    )


Size = tuple[int, int, int, int]
"""Text tokens, visual tokens, images and length of the question of a prompt."""


def sizes_of(prefill: Prefill, text_tokens: Tensor) -> list[Size]:
    """Sizes of the prompts of a batch before its first layer, of which ``text_tokens`` (batch,) belong to prompts."""
    parts = (text_tokens, prefill.counts, prefill.floor, prefill.asked.sum(dim=1))
    return [tuple(sizes) for sizes in zip(*(part.tolist() for part in parts), strict=True)]


def prompt_sizes(model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 125) -> list[Size]:
    """Sizes of the samples' prompts, without running the model.

    Raises
    ------
    ModelError
        If the model cannot be pruned, or the processor has no chat template.
    """
    family, sizes = describe(model), []
    for start in range(0, len(samples), batch_size):
        batch = prepare(processor, samples[start : start + batch_size])
        ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
        visual = family.visual_mask(ids) & real
        prefill = Prefill(visual, real, batch.query, make_selector("random"), sample_keys(ids, real, batch.query))
        sizes += sizes_of(prefill, batch.prompt_tokens - prefill.counts)
    return sizes
