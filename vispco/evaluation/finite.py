"""Numbers that results depend on, looked at where they are made: NaN and infinity reach no point."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vispco.data import Sample
from vispco.errors import NumericError


def check_finite(what: str, values: Tensor, model: Any, samples: Sequence[Sample]) -> None:
    """Refuse values that are NaN or infinite.

    Parameters
    ----------
    what : str
        They are, for people.
    values : Tensor, shape (samples, ...)
    model : PreTrainedModel
        That they come from.
    samples : sequence of Sample

    Raises
    ------
    NumericError
        Naming the first sample that has one.
    """
    bad = ~values.flatten(start_dim=1).isfinite().all(dim=1) if values.dim() > 1 else ~values.isfinite()
    if not bad.any():
        return
    sample = samples[int(bad.nonzero()[0])]
    dtype = str(model.dtype).removeprefix("torch.")
    advice = (
        "check the checkpoint's weights and that sample, or leave it out"
        if model.dtype == torch.float32
        else f"model.dtype is {dtype}, which may be too coarse, try model.dtype=float32"
    )
    raise NumericError(f"sample {sample.index}: NaN or infinity in {what}; {advice}")
