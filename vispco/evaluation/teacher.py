"""What the unpruned model said on a batch, and how far a pruned one is from it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vispco.engine import Captured


@dataclass(frozen=True)
class Quality:
    """Per-sample quality of one schedule.

    Attributes
    ----------
    kl : ndarray, shape (samples,)
        KL(unpruned || pruned) in nats, mean over the answer's tokens.
    score : ndarray, shape (samples,)
        In 0..1, official; or 1 where the greedy answer is the reference, to its end, and else 0.
    """

    kl: NDArray[np.float64]
    score: NDArray[np.float64]

    @property
    def lost(self) -> NDArray[np.float64]:
        """``1 - exp(-kl)`` per sample, in 0..1: what a sure teacher's answer has lost of its probability.

        A bounded twin of KL (it bounds the squared total variation; Bretagnolle and Huber 1979): a few samples that
        fail altogether do not rule its mean.
        """
        return -np.expm1(-self.kl)


@dataclass(frozen=True)
class TeacherBatch:
    """A captured batch with the unpruned model's log-probabilities, shape (batch, answers, vocabulary).

    ``text_tokens`` are on the CPU, where costs are counted, all else is on the model's device.
    """

    captured: Captured
    rows: Tensor
    targets: Tensor
    teacher: Tensor
    text_tokens: Tensor

    def select(self, index: Tensor) -> "TeacherBatch":
        """The batch made of samples ``index`` (which may repeat)."""
        own = index.to(self.rows.device)
        return TeacherBatch(
            self.captured.select(own),
            self.rows[own],
            self.targets[own],
            self.teacher[own],
            self.text_tokens[index.cpu()],
        )

    def head(self, size: int) -> "TeacherBatch":
        """The first ``size`` samples."""
        return self if size == len(self.rows) else self.select(torch.arange(size))

    def divergence(self, logits: Tensor) -> Tensor:
        """KL(unpruned || pruned) per sample, mean over answer tokens; differentiable, shape (batch,)."""
        student = logits.to(self.teacher.device).float().log_softmax(dim=-1)
        per_row = (self.teacher.exp() * (self.teacher - student)).sum(dim=-1)
        counts = (self.targets >= 0).to(per_row.dtype)
        return (per_row * counts).sum(dim=1) / counts.sum(dim=1)
