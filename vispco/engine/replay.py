"""Running a decoder layer by layer from inputs that were captured once.

A search evaluates many schedules on the same samples. Vision tower, projector, embeddings, masks and rotary tables do
not depend on the schedule, so one stock forward captures what enters the first decoder layer, and everything after it
is replayed: with tokens dropped (:meth:`Replay.run`, which can be forked where schedules part) or weighted
(:meth:`Replay.relaxed`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vispco.engine.attention import ARGUMENT, observed_attention
from vispco.engine.families import describe
from vispco.engine.prefill import Prefill, sample_keys
from vispco.engine.relaxed import RelaxedPrefill
from vispco.schedule import keep_counts
from vispco.selectors import Selector


@dataclass(frozen=True)
class Captured:
    """What enters the first decoder layer for one batch.

    Attributes
    ----------
    hidden : Tensor, shape (batch, sequence, width)
    arguments : dict
        Keyword arguments of a decoder layer: mask, rotary tables, positions.
    visual, real : Tensor, shape (batch, sequence), bool
    query : Tensor, shape (batch,)
        Slot of the last prompt token.
    keys : Tensor, shape (batch,)
    """

    hidden: Tensor
    arguments: dict[str, Any]
    visual: Tensor
    real: Tensor
    query: Tensor
    keys: Tensor

    @property
    def visual_tokens(self) -> Tensor:
        """Original number of visual tokens, shape (batch,)."""
        return self.visual.sum(dim=1)

    def select(self, index: Tensor) -> "Captured":
        """The batch made of samples ``index`` (which may repeat)."""

        def pick(value: Tensor | None) -> Tensor | None:
            return value if value is None or value.shape[0] == 1 else value[index]

        cos, sin = self.arguments["position_embeddings"]
        arguments = {
            **self.arguments,
            "position_embeddings": (pick(cos), pick(sin)),
            "position_ids": pick(self.arguments.get("position_ids")),
            "attention_mask": pick(self.arguments.get("attention_mask")),
        }
        return Captured(
            self.hidden[index], arguments, self.visual[index], self.real[index], self.query[index], self.keys[index]
        )


class _Stop(Exception):
    """Ends the capturing forward at the first decoder layer."""


class Replay:
    """Layer-by-layer runs of a model's decoder with one selector.

    Use inside ``with observed_attention(model)``.

    Parameters
    ----------
    model : PreTrainedModel
    selector : Selector
    """

    def __init__(self, model: Any, selector: Selector):
        self.model, self.selector, self.family = model, selector, describe(model)

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.family.layers)

    @torch.no_grad()
    def capture(self, inputs: dict[str, Tensor], query: Tensor | None = None) -> Captured:
        """Run the model up to its first decoder layer.

        Parameters
        ----------
        inputs : dict
            What the processor returned: ``input_ids``, ``attention_mask`` and pixels.
        query : Tensor, shape (batch,), or None
            Slot of the last prompt token; the last real token if None.
        """
        found: dict[str, Any] = {}

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.update(kwargs, hidden=args[0])
            raise _Stop

        hook = self.family.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.model(**inputs, use_cache=False)
        except _Stop:
            pass
        finally:
            hook.remove()
        hidden = found.pop("hidden")
        ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
        if query is None:
            query = torch.where(real, torch.arange(real.shape[1], device=real.device), 0).amax(dim=1)
        visual = self.family.visual_mask(ids) & real
        return Captured(hidden, {**found, "use_cache": False}, visual, real, query, sample_keys(ids, real))

    def start(self, captured: Captured) -> Prefill:
        """The prefill of a captured batch, before its first layer."""
        c = captured
        return Prefill(c.visual, c.real, c.query, self.selector, c.keys)

    def layer(self, index: int, hidden: Tensor, prefill: Prefill, arguments: dict[str, Any]) -> Tensor:
        """Run decoder layer ``index`` on the tokens of ``prefill``; shapes (batch, tokens, width)."""
        given = {**prefill.layer_arguments(arguments, hidden.dtype), ARGUMENT: prefill}
        output: Tensor | tuple[Tensor, ...] = self.family.layers[index](hidden, **given)
        return output[0] if isinstance(output, tuple) else output

    def logits(self, hidden: Tensor, prefill: Prefill, rows: Tensor) -> Tensor:
        """Logits at slots ``rows`` (batch, answers) of the last layer's output; shape (batch, answers, vocabulary)."""
        places = prefill.place_of(rows)[..., None].expand(-1, -1, hidden.shape[-1])
        picked = hidden.gather(1, places)
        logits: Tensor = self.family.lm_head(self.family.norm(picked))
        return logits

    @torch.no_grad()
    def run(self, captured: Captured, keep: Sequence[float], rows: Tensor) -> Tensor:
        """Logits under one schedule with tokens dropped; see :meth:`logits` for ``rows`` and the shape."""
        counts = keep_counts(keep, captured.visual_tokens)
        prefill, hidden = self.start(captured), captured.hidden
        for index in range(self.layers):
            hidden = prefill.cut(counts[index], hidden)
            hidden = self.layer(index, hidden, prefill, captured.arguments)
        return self.logits(hidden, prefill, rows)

    def relaxed(
        self,
        captured: Captured,
        ratios: Tensor,
        rows: Tensor,
        *,
        temperature: float,
        hard: bool = False,
        visit: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Logits with tokens weighted by the soft rank, differentiable in ``ratios``.

        Parameters
        ----------
        captured : Captured
        ratios : Tensor, shape (schedules, layers)
            Every schedule runs on every sample; layer 0, which stays whole, runs once for all of them.
        rows : Tensor, shape (batch, answers)
        temperature : float
            Width of the soft rank as a fraction of the visual tokens.
        hard : bool
            0/1 weights in the forward pass (straight-through).
        visit : callable or None
            Called for every layer from 1 on with the visual tokens that run in it, shape (schedules * batch,).

        Returns
        -------
        Tensor, shape (schedules, batch, answers, vocabulary)
        """
        c, number = captured, len(ratios)
        first = self.start(c)
        with torch.no_grad():
            hidden = self.layer(0, c.hidden, first, c.arguments)
        every = torch.arange(len(hidden), device=hidden.device).repeat(number)
        hidden, many = hidden[every], c.select(every)
        prefill = RelaxedPrefill(first.select(every), temperature=temperature, hard=hard)
        each = ratios.repeat_interleave(len(c.hidden), dim=0)
        for index in range(1, self.layers):
            hidden = prefill.weigh(each[:, index], hidden)
            if visit:
                visit(many.visual_tokens if hard else prefill.alive.sum(dim=1))
            hidden = self.layer(index, hidden, prefill, many.arguments)
        logits = self.logits(hidden, prefill, rows[every])
        return logits.view(number, -1, *logits.shape[1:])


__all__ = ["Captured", "Replay", "observed_attention"]
