"""Running a decoder layer by layer from inputs that were captured once.

A search evaluates many schedules on the same samples. Vision tower, projector, embeddings, masks and rotary tables do
not depend on the schedule, so one stock forward captures what enters the decoder layers, and everything after it is
replayed: with tokens dropped (:meth:`Replay.run`, which can be forked where schedules part) or weighted
(:meth:`Replay.relaxed`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vispco.engine import refusals
from vispco.engine.attention import is_flash, observed_attention
from vispco.engine.families import describe
from vispco.engine.gathering import gather_slots
from vispco.engine.placing import device_of
from vispco.engine.prefill import Prefill, last_real, sample_keys
from vispco.engine.prompt import take_deepstack, told_of_pictures
from vispco.engine.relaxed import RelaxedPrefill
from vispco.engine.seen import ARGUMENT
from vispco.engine.tower import watched_tower
from vispco.errors import ModelError
from vispco.schedule import keep_counts
from vispco.selectors import Selector

WHOLE = 0.01
"""Tokens that a schedule may be short of all of them and still count as whole: the step kernels' far tails."""


@dataclass(frozen=True)
class Captured:
    """What enters the decoder layers for one batch.

    Attributes
    ----------
    hidden : Tensor, shape (batch, sequence, width)
        Input of the first layer.
    arguments : tuple of dict, one per layer
        Keyword arguments: mask, rotary tables, positions. Layers share tensors.
    added : tuple of Tensor, shape (batch, sequence, width)
        What is added to the output of the first layers (DeepStack).
    visual, real : Tensor, shape (batch, sequence), bool
    query : Tensor, shape (batch,)
        Slot of the last prompt token.
    keys : Tensor, shape (batch,)
    pictured : dict of str to Tensor, shape (batch, visual, ...)
        Signals of the images that the selector needs.
    """

    hidden: Tensor
    arguments: tuple[dict[str, Any], ...]
    added: tuple[Tensor, ...]
    visual: Tensor
    real: Tensor
    query: Tensor
    keys: Tensor
    pictured: dict[str, Tensor]

    @property
    def visual_tokens(self) -> Tensor:
        """Original number of visual tokens, shape (batch,)."""
        return self.visual.sum(dim=1)

    def select(self, index: Tensor) -> "Captured":
        """The batch made of samples ``index`` (which may repeat)."""
        picked: dict[int, Tensor] = {}

        def pick(value: Any, trailing: int) -> Any:
            """Samples of a tensor whose batch dimension has ``trailing`` dimensions after it; one for one."""
            if not isinstance(value, Tensor) or value.shape[-trailing - 1] == 1:
                return value  # broadcast
            if id(value) not in picked:
                picked[id(value)] = value.index_select(value.dim() - trailing - 1, index.to(value.device))
            return picked[id(value)]

        arguments = tuple(
            {
                **layer,
                "position_embeddings": tuple(pick(table, 2) for table in layer["position_embeddings"]),
                "position_ids": pick(layer.get("position_ids"), 1),
                "attention_mask": pick(layer.get("attention_mask"), 3),
            }
            for layer in self.arguments
        )

        def rows(value: Tensor) -> Tensor:
            return value[index.to(value.device)]

        return Captured(
            rows(self.hidden),
            arguments,
            tuple(map(rows, self.added)),
            rows(self.visual),
            rows(self.real),
            rows(self.query),
            rows(self.keys),
            {name: rows(value) for name, value in self.pictured.items()},
        )


@contextmanager
def _bypassed(layers: nn.ModuleList, visit: Callable[[int, Tensor, dict[str, Any]], None]) -> Iterator[None]:
    """Hand each layer's input on as its output, after a visit."""

    def forward(index: int) -> Callable[..., Tensor]:
        def visited(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            visit(index, hidden, kwargs)
            return hidden

        return visited

    own = [vars(layer).get("forward") for layer in layers]
    for index, layer in enumerate(layers):
        layer.forward = forward(index)
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            del layer.forward
            if before is not None:
                layer.forward = before


@contextmanager
def _short_mlp(layer: Any, tail: int | None) -> Iterator[None]:
    """Inside the block the MLP runs on the last ``tail`` tokens alone, and gives zeros for the others."""
    if tail is None:
        yield
        return
    own, whole = vars(layer.mlp).get("forward"), layer.mlp.forward
    layer.mlp.forward = lambda hidden: F.pad(whole(hidden[:, -tail:]), (0, 0, hidden.shape[1] - tail, 0))
    try:
        yield
    finally:
        del layer.mlp.forward
        if own is not None:
            layer.mlp.forward = own


class _Stop(Exception):
    """Ends the capturing forward at the last decoder layer."""


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
        """Run the model without its decoder layers.

        Parameters
        ----------
        inputs : dict
            What the processor returned: ``input_ids``, ``attention_mask`` and pixels; they go to the model's device.
        query : Tensor, shape (batch,), or None
            Slot of the last prompt token; the last real token if None.
        """
        device = device_of(self.model)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        arguments: list[dict[str, Any]] = []
        first: list[Tensor] = []
        added: list[Tensor] = []

        def visit(index: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
            first[:] = first or [hidden]
            arguments.append({**kwargs, "use_cache": False})
            if len(arguments) == self.layers:
                raise _Stop

        def take(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            kwargs, added[:] = take_deepstack(kwargs)
            return args, kwargs

        hook = self.family.decoder.register_forward_pre_hook(take, with_kwargs=True)
        try:
            with _bypassed(self.family.layers, visit), watched_tower(self.family, self.selector.needs) as watch:
                self.model(**inputs, use_cache=False)
        except _Stop:
            pass
        finally:
            hook.remove()
        ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
        visual = self.family.visual_mask(ids) & real
        end = last_real(real) if query is None else query.to(device)
        keys = sample_keys(ids, real, end)
        captured = Captured(first[0], tuple(arguments), tuple(added), visual, real, end, keys, {})
        pictured = watch.signals(told_of_pictures(inputs), self.start(captured).alive)
        return replace(captured, pictured=pictured)

    def start(self, captured: Captured) -> Prefill:
        """The prefill of a captured batch, before its first layer."""
        c = captured
        start = Prefill(c.visual, c.real, c.query, self.selector, c.keys, c.added, self.family)
        start.constant = c.pictured
        return start

    def layer(self, index: int, hidden: Tensor, prefill: Prefill, captured: Captured) -> Tensor:
        """Run decoder layer ``index`` on the tokens of ``prefill``; shapes (batch, tokens, width)."""
        flash = is_flash(self.family.decoder.config._attn_implementation)  # type: ignore[union-attr,arg-type]
        given = {**prefill.layer_arguments(captured.arguments[index], hidden, flash=flash), ARGUMENT: prefill}
        with _short_mlp(self.family.layers[index], prefill.tail):
            output: Tensor | tuple[Tensor, ...] = self.family.layers[index](hidden, **given)
        return output[0] if isinstance(output, tuple) else output

    def logits(self, hidden: Tensor, prefill: Prefill, rows: Tensor) -> Tensor:
        """Logits at slots ``rows`` (batch, answers) of the last layer's output; shape (batch, answers, vocabulary)."""
        return self.family.logits(gather_slots(hidden, prefill.place_of(rows)))

    @torch.no_grad()
    def run(self, captured: Captured, keep: Sequence[float], rows: Tensor) -> Tensor:
        """Logits under one schedule with tokens dropped; see :meth:`logits` for ``rows`` and the shape."""
        prefill, hidden = self.start(captured), captured.hidden
        counts = keep_counts(keep, prefill.counts, prefill.floor)
        for index in range(self.layers):
            prefill, hidden = prefill.enter(index, counts[index], hidden, captured.arguments[index])
            prefill.watch = bool((counts[index + 1 : index + 2] < counts[index]).any())
            hidden = self.layer(index, hidden, prefill, captured)
        return self.logits(hidden, prefill, rows)

    def relaxed(
        self,
        captured: Captured,
        ratios: Tensor,
        rows: Tensor,
        *,
        temperature: float,
        hard: bool = False,
        checkpointing: bool = False,
        knobs: Mapping[str, Tensor] | None = None,
        visit: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Logits with tokens weighted by the soft rank, differentiable in ``ratios``.

        Parameters
        ----------
        captured : Captured
        ratios : Tensor, shape (schedules, layers)
            Every schedule runs on every sample; layers before the first cut of all of them run once, without gradient.
        rows : Tensor, shape (batch, answers)
        temperature : float
            Width of the soft rank as a fraction of the visual tokens.
        hard : bool
            0/1 weights in the forward pass (straight-through).
        checkpointing : bool
            Store inputs of layers only, and run the layers again in the backward pass, which then has to be inside
            ``with observed_attention`` too.
        knobs : mapping of str to Tensor, shape (schedules,), or None
            Values of the selector's smooth knobs, in which the result is differentiable as well.
        visit : callable or None
            Called for every layer from 1 on with the visual tokens that run in it, shape (schedules * batch,).

        Returns
        -------
        Tensor, shape (schedules, batch, answers, vocabulary)

        Raises
        ------
        ModelError
            Where keys cannot be weighted: flash backends, float16, attention logits with a bound.
        """
        self.check_weights()
        first, number = first_cut(ratios, captured), len(ratios)
        start, hidden = self.whole(captured, self.start(captured), captured.hidden, 0, first)
        every = torch.arange(len(hidden), device=captured.visual.device).repeat(number)
        many, each = captured.select(every), ratios.repeat_interleave(len(hidden), dim=0)
        if visit:
            for _ in range(1, first):
                visit(many.visual_tokens)
        values = {name: value.repeat_interleave(len(hidden)) for name, value in (knobs or {}).items()}
        prefill = RelaxedPrefill(start.select(every), temperature=temperature, hard=hard)
        logits = self.weighted(
            many, prefill, hidden[every.to(hidden.device)], first, each, rows[every.to(rows.device)], values,
            checkpointing=checkpointing, visit=visit,
        )  # fmt: skip
        return logits.view(number, -1, *logits.shape[1:])

    def check_weights(self) -> None:
        """Raise :class:`vispco.errors.ModelError` if the attention backend cannot weight keys."""
        if is_flash(self.family.decoder.config._attn_implementation):  # type: ignore[union-attr,arg-type]
            raise ModelError(refusals.WEIGHTS_FLASH)

    @torch.no_grad()
    def whole(
        self, captured: Captured, prefill: Prefill, hidden: Tensor, start: int, stop: int
    ) -> tuple[Prefill, Tensor]:
        """State and output of layer ``stop - 1`` after layers ``start`` to ``stop - 1`` on all tokens."""
        for index in range(start, stop):
            prefill, hidden = prefill.enter(index, prefill.counts, hidden, captured.arguments[index])
            prefill.watch = index == stop - 1
            hidden = self.layer(index, hidden, prefill, captured)
        return prefill, hidden

    def weighted(
        self,
        captured: Captured,
        prefill: RelaxedPrefill,
        hidden: Tensor,
        first: int,
        ratios: Tensor,
        rows: Tensor,
        knobs: Mapping[str, Tensor],
        *,
        checkpointing: bool = False,
        visit: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Logits (batch, answers, vocabulary) with tokens weighted from layer ``first`` on.

        Parameters
        ----------
        captured : Captured
        prefill, hidden
            State and output of the layer before ``first``.
        first : int
        ratios : Tensor, shape (batch, layers)
            One schedule per sample.
        rows : Tensor, shape (batch, answers)
        knobs : mapping of str to Tensor, shape (batch,)
        checkpointing, visit
            As of :meth:`relaxed`.
        """
        if knobs:
            device = captured.visual.device
            own = {name: value.to(device) for name, value in knobs.items()}
            prefill.selector, prefill.learns_knobs = self.selector.tuned(**own), True
        for index in range(first, self.layers):
            prefill, hidden = prefill.weigh(index, ratios[:, index], hidden, captured.arguments[index])
            if visit:
                visit(captured.visual_tokens if prefill.hard else prefill.alive.sum(dim=1))
            if index == self.layers - 1:
                prefill.tail = hidden.shape[1] - int(prefill.place_of(rows).min())
            run = (index, hidden, prefill, captured)
            hidden = checkpoint(self.layer, *run, use_reentrant=False) if checkpointing else self.layer(*run)
        return self.logits(hidden, prefill, rows)


def first_cut(ratios: Tensor, captured: Captured) -> int:
    """First layer from 1 on at which one of the schedules, shape (schedules, layers), takes a token; else the last."""
    most = int(captured.visual_tokens.max()) if len(captured.hidden) else 0
    falls = ((1 - ratios.detach()) * most >= WHOLE).any(dim=0)[1:-1]
    return 1 + int(falls.nonzero()[0, 0]) if bool(falls.any()) else len(falls) + 1


__all__ = ["Captured", "Replay", "observed_attention"]
