"""AutoPrune's schedules: a logistic retention curve under a budget (Wang et al., NeurIPS 2025, arXiv 2509.23931).

What question tokens x attend to among visual tokens y in layer 1 (counted from 0) says how hard a sample is. With
attention ``A_h`` of head h, T question tokens and H heads::

    MI = 32 / H  sum over h, x, y of  A_h(x, y) / T  log2(A_h(x, y) / mean over x' of A_h(x', y))
    k = max(k0 - gamma MI, 0)                                  more shared information, a flatter curve
    f(l) = 1 / (1 + exp(k (d_l - x0 - k))),  d_l = 32 l / L    what layer l leaves to the next one
    r_0 = 1,  r_1 = u,  r_l = min(u, s f(l - 1)) from l = 2 on,  u = min(1, 2.5 m)

s is found by bisection so that r_1, r_2, ... have the mean m, and m by bisection so that the schedule meets the budget.
Published: x0 = 14.9, k0 = 0.4, gamma = 0.2, for the 32 layers and 32 heads of LLaVA-1.5-7B.

This is a form for a whole data set, and differs from the authors' code in what follows:

- One curve for all: k comes from the mean MI of the calibration samples. The code makes a curve for every sample.
- The budget limits exact FLOPs. The code's limits m, and merged tokens that are put back count in it.
- 32 / H and d_l carry the published constants over to models with other numbers of heads and layers.
- Tokens are chosen by the selector of the run. In the code an encoder's attention chooses those that enter layer 1,
  mean question attention the others, and part of what is dropped is merged.
- MI is measured on all visual tokens. The code measures it on those that entered layer 1, and adds 1e-6 to a divisor.
- f has no factor 0.75 in front, which s would undo; counts are rounded as everywhere here, not up.
"""

import math

import torch
from torch import Tensor

from vispco.cost import Cost
from vispco.engine import observed_attention
from vispco.errors import ConfigError
from vispco.evaluation import Evaluator
from vispco.search.space import Schedule

DEPTH = HEADS = 32
"""Layers and heads of the model that the published constants are for."""

SPARE = 2.5
"""Most tokens that a layer keeps, as a multiple of the mean."""


def mutual_information(rows: Tensor, asked: Tensor) -> Tensor:
    """MI of question and visual tokens by the formula above, shape (batch,); 0 without question or visual tokens.

    Parameters
    ----------
    rows : Tensor, shape (batch, heads, question, visual)
        Attention, zero where there is padding.
    asked : Tensor, shape (batch, question), bool
        Question tokens that are no padding.
    """
    rows = rows.double()
    number = asked.sum(dim=1).clamp(min=1)[:, None, None, None]
    mean = rows.sum(dim=2, keepdim=True) / number
    information: Tensor = torch.special.xlogy(rows, rows / mean.clamp(min=1e-300)) / (number * math.log(2))
    return HEADS * information.sum(dim=(2, 3)).mean(dim=1)


def mean_information(evaluator: Evaluator) -> float:
    """Mean MI over the samples with visual tokens; two unpruned layers of each are charged.

    Raises
    ------
    ConfigError
        If no sample has visual tokens.
    """
    looking = evaluator.share("sparsevlm_plus")  # it needs the attention of question tokens head by head
    replay, total, samples = looking.replay, 0.0, 0
    with observed_attention(replay.family), torch.no_grad():
        for batch in looking.batches:
            captured = batch.captured
            state, hidden = replay.start(captured), captured.hidden
            for layer in (0, 1):
                state, hidden = state.enter(layer, captured.visual_tokens.cpu(), hidden, captured.arguments[layer])
                hidden = replay.layer(layer, hidden, state, captured)
                looking.charge_layer(batch, captured.visual_tokens.cpu())
            rows = state.signals["question_heads"] * state.alive[:, None, None]
            total += float(mutual_information(rows, state.asked).sum())
            samples += int((captured.visual_tokens > 0).sum())
    if not samples:
        raise ConfigError("search=autoprune needs samples with images; none of the calibration samples has one")
    return total / samples


def retention(layers: int, information: float, *, x0: float = 14.9, k0: float = 0.4, gamma: float = 0.2) -> list[float]:
    """``f(l)`` of layers 0 to ``layers - 1``.

    Parameters
    ----------
    layers : int
    information : float
        MI.
    x0, k0, gamma : float
        Middle of the curve in layers of 32, its slope without shared information, and what that takes off.
    """
    slope = max(k0 - gamma * information, 0.0)
    return [1 / (1 + math.exp(slope * (DEPTH * layer / layers - x0 - slope))) for layer in range(layers)]


def scaled_schedule(curve: list[float], mean: float) -> Schedule:
    """The schedule whose ratios after layer 0 have a mean.

    Parameters
    ----------
    curve : list of float
        ``f(l)`` by layer.
    mean : float
        In (0, 1].
    """
    most = min(1.0, SPARE * mean)

    def ratios(scale: float) -> list[float]:
        return [most, *(min(most, scale * value) for value in curve[1:-1])]

    low, high = 0.0, most / min(curve)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if math.fsum(ratios(middle)) > mean * (len(curve) - 1) else (middle, high)
    return (1.0, *ratios(high))


def fit_curve(curve: list[float], cost: Cost, budget: float) -> Schedule:
    """The most generous schedule of a curve within a budget, to 1e-4 in its mean; ratios rounded to six digits, down.

    Raises
    ------
    ConfigError
        If a single token is too much.
    """

    def member(mean: float) -> Schedule:
        return tuple(int(max(ratio, 1e-6) * 1e6) / 1e6 for ratio in scaled_schedule(curve, mean))

    if cost.fits(whole := (1.0,) * len(curve), budget):
        return whole
    low, high = 1e-6, 1.0
    if not cost.fits(member(low), budget):
        raise ConfigError(f"budget {budget:g} is below what a single token per image costs; raise the budget")
    while high - low > 1e-4 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if cost.fits(member(middle), budget) else (low, middle)
    return member(low)
