"""Losses of weighted schedules with their gradient taken at once: the memory of one small part, whatever the batch.

A search needs of every schedule and sample one loss and its slopes in the ratios, L numbers. Nothing couples samples or
schedules before the losses, so a part of them runs forward and backward, leaves its slopes, and is forgotten before the
next one runs. The result is an ordinary differentiable tensor whose backward pass only multiplies by the slopes.
Schedules share the layers before their first cuts, which run without gradient. Several processes share the parts out,
and each has all results.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vispco import parallel
from vispco.engine.relaxed import RelaxedPrefill
from vispco.engine.replay import Captured, Replay, first_cut

PART = 1024
"""Tokens of a part at the first layer, if that is more than one sample: larger ones are hardly faster."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Loss per sample, shape (part,), from the indices of samples (part,) and their logits (part, answers, vocabulary)."""
Visit = Callable[[Tensor, Tensor, int], None]
"""Told of a layer's run, in whichever process: indices of samples (part,), visual tokens that run in it (part,), and
passes over it."""


def relaxed_losses(
    replay: Replay,
    captured: Captured,
    ratios: Tensor,
    rows: Tensor,
    loss: Loss,
    *,
    temperature: float,
    hard: bool = False,
    recompute: bool = False,
    knobs: Mapping[str, Tensor] | None = None,
    visit: Visit | None = None,
) -> Tensor:
    """Losses of every schedule on every sample, differentiable once in ``ratios`` and ``knobs``.

    Parameters
    ----------
    replay, captured, temperature, hard
        As of :meth:`vispco.engine.replay.Replay.relaxed`, and equal to it in value and gradient.
    ratios : Tensor, shape (schedules, layers), or (schedules, batch, layers)
        One schedule for all samples, or one for each.
    rows : Tensor, shape (batch, answers)
    loss : callable
        See :data:`Loss`; one sample's loss must not depend on another's logits.
    recompute : bool
        Run every MLP once more in the backward pass instead of storing its activations, half of a layer's memory.
    knobs : mapping of str to Tensor, shape (schedules,) or (schedules, batch), or None
    visit : callable or None
        See :data:`Visit`. A backward pass counts as one; a part that is run again counts as if all of the layer were.

    Returns
    -------
    Tensor, shape (schedules, batch)

    Raises
    ------
    ModelError
        Where keys cannot be weighted.
    """
    replay.check_weights()
    batch, names = len(captured.hidden), list(knobs or {})
    own = ratios if ratios.dim() == 3 else ratios[:, None].expand(-1, batch, -1)
    values = [value if value.dim() == 2 else value[:, None].expand(-1, batch) for value in (knobs or {}).values()]
    run = _Run(replay, captured, rows, loss, names, temperature, hard, recompute, visit)
    inputs = (own, *values)
    if torch.is_grad_enabled() and any(value.requires_grad for value in inputs):
        losses: Tensor = _Slopes.apply(run, *inputs)  # type: ignore[no-untyped-call]
        return losses
    return run(inputs, slopes=False)[0]


class _Slopes(torch.autograd.Function):
    """Losses, shape (schedules, batch), whose slopes are known once they are."""

    @staticmethod
    def forward(ctx: Any, run: "_Run", *inputs: Tensor) -> Tensor:
        losses, *slopes = run(inputs, slopes=True)
        ctx.save_for_backward(*slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        def times(slope: Tensor) -> Tensor:
            return outer[0].reshape(*outer[0].shape, *[1] * (slope.dim() - 2)) * slope

        return None, *map(times, ctx.saved_tensors)


class _Run:
    """One call of :func:`relaxed_losses`."""

    def __init__(
        self, replay: Replay, captured: Captured, rows: Tensor, loss: Loss, names: list[str], temperature: float,
        hard: bool, recompute: bool, visit: Visit | None,
    ):  # fmt: skip
        self.replay, self.captured, self.rows, self.loss, self.names = replay, captured, rows, loss, names
        self.temperature, self.hard, self.recompute = temperature, hard, recompute
        self.visit = visit or (lambda samples, kept, passes: None)

    def __call__(self, inputs: tuple[Tensor, ...], *, slopes: bool) -> list[Tensor]:
        """Losses (schedules, batch), and if wanted their slopes in every input, (schedules, batch, ...)."""
        ratios, captured = inputs[0], self.captured
        parallel.check_together("schedules in training", *inputs)
        batch, length = captured.visual.shape
        every = torch.arange(batch, device=captured.visual.device)
        parts = every.split(max(1, PART // length))
        firsts = [first_cut(each, captured) for each in ratios]
        results = [ratios.new_zeros(len(ratios), batch)]
        results += [torch.zeros_like(value) for value in inputs if slopes]
        kept = captured.visual_tokens.new_zeros(self.replay.layers, len(ratios), batch)
        done, prefill, hidden = 0, self.replay.start(captured), captured.hidden
        order = sorted(range(len(ratios)), key=firsts.__getitem__)
        own = parallel.share(len(order) * len(parts))
        for place, schedule in enumerate(order):
            first = firsts[schedule]
            prefill, hidden = self.replay.whole(captured, prefill, hidden, done, first)
            done = first
            for unit, samples in enumerate(parts, start=place * len(parts)):
                if unit not in own:
                    continue
                values = [value[schedule, samples.to(value.device)].detach().clone() for value in inputs]
                state = RelaxedPrefill(prefill.select(samples), temperature=self.temperature, hard=self.hard)
                found, ran = self._part(samples, state, hidden[samples.to(hidden.device)], first, values, slopes=slopes)
                for result, part in zip(results, found, strict=True):
                    result[schedule, samples.to(result.device)] = part.to(result)
                kept[first:, schedule, samples] = torch.stack(ran)
        self._tell(order, firsts, parts, parallel.combine(kept), slopes=slopes)
        return [parallel.combine(result) for result in results]

    def _tell(
        self, order: list[int], firsts: list[int], parts: tuple[Tensor, ...], kept: Tensor, *, slopes: bool
    ) -> None:
        """Tell of all runs in the order of one process; ``kept`` has shape (layers, schedules, batch)."""
        done, passes = 0, (3 if self.recompute else 2) if slopes else 1
        for schedule in order:
            for _ in range(done, firsts[schedule]):
                self.visit(torch.cat(parts), self.captured.visual_tokens, 1)
            done = firsts[schedule]
            for samples in parts:
                for layer in range(done, len(kept)):
                    self.visit(samples, kept[layer, schedule, samples], passes)

    def _part(
        self, samples: Tensor, prefill: RelaxedPrefill, hidden: Tensor, first: int, own: list[Tensor], *, slopes: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Losses of some samples and their slopes in inputs of their own; visual tokens that ran in every layer."""
        ran: list[Tensor] = []
        with torch.set_grad_enabled(slopes), recomputed(self.replay.family.layers, self.recompute and slopes):
            knobs = dict(zip(self.names, own[1:], strict=True))
            for value in own:
                value.requires_grad_(slopes)
            logits = self.replay.weighted(
                self.captured.select(samples), prefill, hidden, first, own[0], self.rows[samples.to(self.rows.device)],
                knobs, visit=ran.append,
            )  # fmt: skip
            losses = self.loss(samples, logits)
            gradients = torch.autograd.grad(losses.sum(), own, allow_unused=True) if slopes else ()
        unused = [
            torch.zeros_like(value) if gradient is None else gradient
            for value, gradient in zip(own, gradients, strict=False)
        ]
        return [losses.detach(), *unused], ran


@contextmanager
def recomputed(layers: nn.ModuleList, wanted: bool) -> Iterator[None]:
    """Inside the block the MLPs of decoder layers store their input only, and run again in the backward pass."""
    mlps: list[Any] = [layer.mlp for layer in layers] if wanted else []
    own = [vars(mlp).get("forward") for mlp in mlps]
    for mlp in mlps:
        # No dropout in evaluation mode, hence no state of random numbers to bring back.
        mlp.forward = partial(checkpoint, mlp.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for mlp, before in zip(mlps, own, strict=True):
            del mlp.forward
            if before is not None:
                mlp.forward = before
