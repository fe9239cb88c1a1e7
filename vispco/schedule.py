"""Schedules: how many visual tokens enter each decoder layer.

A schedule is the vector ``keep = (r_0, ..., r_{L-1})`` of keep ratios, non-increasing in depth. It is the one object
that kernels and searches produce and that engine, cost and export consume. Every ratio refers to the sample's
*original* number of visual tokens, so it is rounded once and never layer after layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vispco.errors import ConfigError

SNAP = 1e-9
"""Ratios come from decimal text: 0.145 * 100 must round as 14.5 does, not as 14.499999999999998."""


def check_keep(keep: Sequence[float], layers: int | None = None) -> tuple[float, ...]:
    """Return ``keep`` as a tuple of floats if it is a schedule.

    Raises
    ------
    ConfigError
        If it is empty, has not ``layers`` entries, holds a ratio outside 0..1 (or not a number), or increases.
    """
    ratios = tuple(float(ratio) + 0.0 for ratio in keep)  # -0.0 is 0.0: equal schedules print alike
    if not ratios:
        raise ConfigError("keep is empty; give one ratio in 0..1 for every decoder layer")
    if layers is not None and len(ratios) != layers:
        raise ConfigError(
            f"keep has {len(ratios)} ratios but the model has {layers} decoder layers; give one ratio per layer"
        )
    for layer, ratio in enumerate(ratios):
        if not 0.0 <= ratio <= 1.0:
            raise ConfigError(f"keep[{layer}] = {ratio} is outside 0..1; give the fraction of visual tokens to keep")
        if layer and ratio > ratios[layer - 1]:
            raise ConfigError(
                f"keep[{layer}] = {ratio} is above keep[{layer - 1}] = {ratios[layer - 1]}; "
                "a token that was dropped cannot come back, so ratios must not increase"
            )
    return ratios


def keep_counts(
    keep: Sequence[float] | Tensor, visual_tokens: int | Sequence[int] | Tensor, floor: int | Tensor = 1
) -> Tensor:
    """Integer keep counts ``clamp(round_half_up(r * N), floor, N)``; a ratio of exactly 0 keeps none.

    Parameters
    ----------
    keep : sequence of float, or Tensor of shape (..., layers)
    visual_tokens : int, or sequence or Tensor of shape (batch,)
        Original number N of visual tokens, per sample.
    floor : int, or Tensor of shape (batch,)
        Fewest tokens to keep where the ratio is above 0: the number of images, of which each keeps one.

    Returns
    -------
    Tensor, shape (..., layers, batch), int64
        With an int for ``visual_tokens`` the batch dimension is left out.
    """
    ratios = torch.as_tensor(keep, dtype=torch.float64)
    totals = torch.as_tensor(visual_tokens, dtype=torch.int64)
    exact = ratios[(...,) + (None,) * totals.dim()].cpu() * totals.cpu()
    counts = torch.floor(exact + 0.5 + SNAP).to(torch.int64)
    counts = torch.where(exact > 0, counts.clamp(min=floor), counts)
    return torch.minimum(counts, totals.cpu())


def cut_layers(counts: Tensor) -> list[int]:
    """Layers at whose input tokens are dropped, for counts of shape (layers, batch) or (layers,)."""
    return [layer for layer in range(1, len(counts)) if bool((counts[layer] < counts[layer - 1]).any())]
