"""Training that has come to numbers that are none: it stops at the step where that happens, and says for what."""

from collections.abc import Sequence

from torch import Tensor

from vispco.errors import NumericError


def check_step(what: str, values: Tensor, budgets: Sequence[float], step: int) -> None:
    """Refuse values of a gradient step that are NaN or infinite.

    Parameters
    ----------
    what : str
        They are, for people.
    values : Tensor, shape (schedules, ...)
    budgets : sequence of float
        Of every schedule.
    step : int
        From 0.

    Raises
    ------
    NumericError
        Naming the step and the budgets.
    """
    bad = ~values.flatten(start_dim=1).isfinite().all(dim=1) if values.dim() > 1 else ~values.isfinite()
    if bad.any():
        names = ", ".join(f"{budgets[place]:g}" for place in dict.fromkeys(bad.nonzero().flatten().tolist()))
        raise NumericError(
            f"gradient step {step}: NaN or infinity in {what} of budget {names}; lower search.lr, or compute in "
            "model.dtype=float32"
        )
