"""What is compared: derivatives of the mean KL along directions in which a schedule can move, by dropping tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vispco.data import load_samples
from vispco.engine import Captured, Replay, load_checkpoint, observed_attention
from vispco.evaluation import Evaluator
from vispco.kernels import MultiStep
from vispco.selectors import make_selector
from vispco.testing import MODELS, Sample

SHARPNESS = 5.0
KINDS = ("size", "earlier", "later", "kernel centre", "kernel size")
"""A segment's ratio; some of its last layers lowered; some of its first ones raised; parameters of two steps."""


@dataclass(frozen=True)
class Problem:
    """A model with one captured batch and the unpruned log-probabilities."""

    replay: Replay
    captured: Captured
    rows: Tensor
    loss: Callable[[Tensor], Tensor]
    """KL per sample, shape (batch,), of logits (batch, answers, vocabulary)."""

    @property
    def tokens(self) -> float:
        """Mean number of visual tokens."""
        return float(self.captured.visual_tokens.double().mean())

    def measure(self, keeps: NDArray[np.float64]) -> NDArray[np.float64]:
        """KL with tokens dropped, shape (schedules, batch)."""
        with observed_attention(self.replay.family), torch.no_grad():
            found = [self.loss(self.replay.run(self.captured, tuple(keep), self.rows)) for keep in keeps]
        return torch.stack(found).double().numpy()


def embedded(samples: int) -> Problem:
    """The embedded checkpoint on validation samples."""
    model, processor = load_checkpoint("micro-llava")
    batch = Evaluator(model, processor, load_samples("shapes", "validation", samples, seed=7)).batches[0]
    return Problem(Replay(model, make_selector("fastv")), batch.captured, batch.rows, batch.divergence)


def random_family(name: str, samples: int) -> Problem:
    """A tiny random model with one image per sample; what is compared are the logits after the prompt."""
    model = MODELS[name].build()
    inputs = MODELS[name].inputs([Sample(before=3, images=1, after=6, seed=index) for index in range(samples)])
    replay = Replay(model, make_selector("fastv"))
    with observed_attention(replay.family):
        captured = replay.capture(inputs)
        rows = captured.query[:, None]
        teacher = replay.run(captured, (1.0,) * replay.layers, rows).float().log_softmax(-1)

    def loss(logits: Tensor) -> Tensor:
        return (teacher.exp() * (teacher - logits.float().log_softmax(-1))).sum(-1).mean(-1)

    return Problem(replay, captured, rows, loss)


@dataclass(frozen=True)
class Slope:
    """A derivative: of the KL per sample along ``direction`` (layers,) at the schedule that it belongs to."""

    kind: str
    direction: NDArray[np.float64]
    samples: NDArray[np.float64]


def random_schedule(layers: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """One to three cuts, ratios between 0.9 and 0.1 that fall geometrically at random."""
    number = int(generator.integers(1, min(3, layers - 1) + 1))
    cuts = generator.choice(np.arange(1, layers), number, replace=False)
    sizes = np.sort(np.exp(generator.uniform(np.log(0.1), np.log(0.9), number)))[::-1]
    keep = np.ones(layers)
    for cut, size in zip(sorted(cuts), sizes, strict=True):
        keep[cut:] = size
    return keep


def layer_slopes(problem: Problem, keep: NDArray[np.float64], step: float) -> list[Slope]:
    """Differences along every legal way to change the ratios of a schedule by ``step``.

    Central where both sides are legal. A layer within a segment can only be lowered with the layers after it, and
    raised with those before it.
    """
    layers = len(keep)
    starts = [layer for layer in range(1, layers) if layer == 1 or keep[layer] < keep[layer - 1]]
    moves: list[tuple[str, NDArray[np.float64], int, int]] = []
    for start, stop in zip(starts, [*starts[1:], layers], strict=True):
        for cut in range(start, stop):
            lower, raised = np.zeros(layers), np.zeros(layers)
            lower[cut:stop] = 1.0
            raised[start : cut + 1] = 1.0
            after = keep[stop] if stop < layers else 0.0
            may_fall = keep[cut] - step > after
            may_rise = keep[start] + step < (keep[start - 1] if start > 1 else 1.0 + 1e-9)
            if cut == start and may_fall and may_rise:
                moves.append(("size", lower, -1, 1))
            if (cut > start or keep[start] == 1.0) and may_fall:
                moves.append(("earlier", lower, -1, 0))
            if cut < stop - 1 and may_rise:
                moves.append(("later", raised, 0, 1))
    if not moves:
        return []
    keeps = np.array([keep + side * step * move for _, move, *sides in moves for side in sides])
    found = problem.measure(keeps).reshape(len(moves), 2, -1)
    return [
        Slope(kind, move, (high - low) / (step * (above - below)))
        for (kind, move, below, above), (low, high) in zip(moves, found, strict=True)
    ]


def kernel_slopes(problem: Problem, generator: np.random.Generator) -> tuple[NDArray[np.float64], list[Slope]]:
    """A random schedule of two smooth steps, and differences along centres (a quarter layer) and logits of sizes."""
    layers = problem.replay.layers
    kernel = MultiStep(layers, 2)
    centres = np.sort(generator.uniform(1.0, layers - 1.0, 2))
    row = torch.tensor([*centres, *generator.uniform(-1.5, 1.5, 2)], dtype=torch.float64)
    steps = torch.diag(torch.tensor([0.25, 0.25, 0.3, 0.3], dtype=torch.float64))
    near = torch.stack([row + side * step for step in steps for side in (-1, 1)])
    found = problem.measure(kernel.ratios(near, SHARPNESS).numpy()).reshape(4, 2, -1)
    jacobian = torch.autograd.functional.jacobian(lambda p: kernel.ratios(p, SHARPNESS), row)
    slopes = [
        Slope(KINDS[3 + index // 2], jacobian[:, index].numpy(), (found[index, 1] - found[index, 0]) / (2 * width))
        for index, width in enumerate(steps.diag().tolist())
    ]
    return kernel.ratios(row, SHARPNESS).numpy(), slopes


def points(problem: Problem, number: int, seed: int) -> list[tuple[NDArray[np.float64], list[Slope]]]:
    """``number`` random schedules and as many of smooth steps, each with its slopes."""
    generator = np.random.default_rng(seed)
    # As many tokens as a difference can be read from: a sixteenth, two at least.
    step = max(2.0, round(problem.tokens / 16)) / problem.tokens
    found: list[tuple[NDArray[np.float64], list[Slope]]] = []
    for _ in range(number):
        slopes: list[Slope] = []
        while not slopes:  # ratios may be too near to one another, or to 0 and 1, to move by a step
            keep = random_schedule(problem.replay.layers, generator)
            keep = np.where(keep < 1, np.round(keep * problem.tokens) / problem.tokens, 1.0)
            slopes = layer_slopes(problem, keep, step)
        found += [(keep, slopes), kernel_slopes(problem, generator)]
    return found
