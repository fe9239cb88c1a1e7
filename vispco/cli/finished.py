"""What a finished run says of itself in ``frontier.json``, as far as other commands build on it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vispco.errors import RunError
from vispco.runs import RunFolder


class Finished(BaseModel):
    """The fields that are looked at; others may be there.

    Attributes
    ----------
    report_split : str or None
        Split that its verified points are of; None if that is not said.
    cost : str
        What its budgets are of.
    configs : list
        Configurations, one per budget, as data.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    report_split: str | None = None
    cost: str = "flops"
    configs: list[Any] = []


def read_finished(folder: RunFolder) -> Finished:
    """The record of a finished run.

    Raises
    ------
    RunError
        If there is none, or it is damaged.
    """
    try:
        return Finished.model_validate(folder.read_frontier())
    except RecursionError:
        raise RunError(f"{folder.frontier}: nested too deep to be read; run the search again") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise RunError(f"{folder.frontier}: field {field}: {first['msg']}; run the search again") from None
