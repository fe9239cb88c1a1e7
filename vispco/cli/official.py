"""The scorer of the settings."""

from vispco.data import make_scorer
from vispco.evaluation import ANSWER_TOKENS, Official
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
