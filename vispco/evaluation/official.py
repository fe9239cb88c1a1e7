"""Official scores: answers by stock ``generate``, judged by the scorer of a benchmark."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vispco.config import ModelCard, PruningConfig
from vispco.data import Sample, Scorer
from vispco.engine import prune
from vispco.errors import DataError
from vispco.evaluation.generation import generate_answers

ANSWER_TOKENS = "answer_tokens"
"""Scorer that reads greedy tokens off teacher forcing, so that nothing is generated."""


@dataclass(frozen=True)
class Official:
    """What generated answers are worth.

    Attributes
    ----------
    scorer : Scorer
    batch_size, max_new_tokens : int
        Of ``generate``.
    """

    scorer: Scorer
    batch_size: int
    max_new_tokens: int

    def scores(self, model: Any, processor: Any, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Score of every sample under the model as it is, e.g. inside ``with prune(...)``; shape (samples,)."""
        said = generate_answers(
            model, processor, samples, batch_size=self.batch_size, max_new_tokens=self.max_new_tokens
        )
        return np.array([self.scorer.score(text, sample) for text, sample in zip(said, samples, strict=True)])

    def scores_under(
        self,
        model: Any,
        processor: Any,
        samples: Sequence[Sample],
        schedule: ArrayLike,
        selector: str,
        selector_params: Mapping[str, Any],
    ) -> NDArray[np.float64]:
        """Score of every sample with tokens dropped.

        Parameters
        ----------
        schedule : array_like, shape (layers,) or (samples, layers)
            One for all samples, or one for each.
        """
        ratios = np.asarray(schedule, dtype=np.float64)
        groups: dict[tuple[float, ...], list[int]] = defaultdict(list)
        for index, row in enumerate(np.broadcast_to(ratios, (len(samples), ratios.shape[-1])).tolist()):
            groups[tuple(row)].append(index)
        card = ModelCard(type=model.config.model_type, layers=ratios.shape[-1])
        scores = np.empty(len(samples))
        for keep, members in groups.items():
            part = [samples[index] for index in members]
            config = PruningConfig(selector=selector, selector_params=dict(selector_params), keep=keep, model=card)
            with nullcontext() if min(keep) == 1.0 else prune(model, config):
                scores[members] = self.scores(model, processor, part)
        return scores


def check_answer_tokens(processor: Any, samples: Sequence[Sample]) -> None:
    """Refuse to read scores off tokens that the tokenizer does not know.

    Raises
    ------
    DataError
        Naming the first sample whose reference answer has one.
    """
    unknown = processor.tokenizer.unk_token_id
    for sample in samples:
        if unknown is not None and unknown in processor.tokenizer(sample.answer, add_special_tokens=False)["input_ids"]:
            raise DataError(
                f"sample {sample.index}: answer {sample.answer!r} is not in the tokenizer's vocabulary, so that "
                f"data.scorer={ANSWER_TOKENS} cannot score it; give data.scorer=exact_match"
            )
