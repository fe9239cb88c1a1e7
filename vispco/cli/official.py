"""The scorer of the settings."""

from collections.abc import Sequence
from typing import Any

from vispco.data import Sample, make_scorer
from vispco.evaluation import ANSWER_TOKENS, Official, check_answer_tokens
from vispco.runs.settings import DataSettings


def official_of(data: DataSettings) -> Official | None:
    """What judges generated answers; None if scores are read off teacher forcing.

    Raises
    ------
    ConfigError
        If there is no such scorer, or no such setting of it.
    """
    if data.scorer == ANSWER_TOKENS:
        return None
    return Official(make_scorer(data.scorer, data.scorer_params), data.batch_size, data.max_new_tokens)


def judge_of(data: DataSettings) -> str:
    """All that the score of an answer depends on besides the answer and its sample, for the fingerprint of points."""
    limit = "" if data.scorer == ANSWER_TOKENS else f", {data.max_new_tokens} new tokens"
    return f"{data.scorer} {data.scorer_params}{limit}"


def check_scorable(official: Official | None, processor: Any, samples: Sequence[Sample]) -> None:
    """Refuse samples whose answers could not be scored, before any long work.

    Raises
    ------
    DataError
        Naming the first of them.
    """
    if official is None:
        check_answer_tokens(processor, samples)
        return
    for sample in samples:
        official.scorer.check(sample)
