"""``prune``: a stock model that drops visual tokens inside a ``with`` block."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vispco.config import PruningConfig
from vispco.cost import DecoderShape
from vispco.engine import refusals
from vispco.engine.attention import is_flash, observed_attention
from vispco.engine.cache import LogicalLayer, take_over
from vispco.engine.compat import check_release
from vispco.engine.families import Family, describe
from vispco.engine.forward import Forward
from vispco.engine.gathering import gather_mask, gather_padding
from vispco.engine.hooks import Generate, Hook, watched_generate
from vispco.engine.prefill import Prefill, sample_keys
from vispco.engine.prompt import Prompt, prompt_end, take_deepstack
from vispco.engine.seen import ARGUMENT
from vispco.engine.tower import Watch, watched_tower
from vispco.errors import ConfigError, ModelError
from vispco.schedule import keep_counts
from vispco.selectors import BEFORE, Choice, Selector, make_selector

FORWARD = "vispco_forward"
"""Keyword under which a forward's state travels from the decoder to its layers."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a module."""


class Pruned:
    """What happened in the last prefill.

    Attributes
    ----------
    kept_counts : Tensor, shape (layers, batch), int64
        Visual tokens that entered each layer.
    kept : list of Tensor, one per layer, shape (batch, visual), bool
        Which of them, in the sample's original order.
    merged : list of Tensor or None, one per layer, shape (batch, kept, visual), float32
        Weights of all tokens in each kept one, in order, where tokens were merged at the layer's input.
    kv_bytes : int
        Bytes of keys and values that the cache holds after the prefill, fillers of ragged batches included; 0 without
        a cache.
    """

    kept_counts: Tensor
    kept: list[Tensor]
    merged: list[Tensor | None]
    kv_bytes: int

    def __init__(
        self,
        family: Family,
        config: PruningConfig,
        selector: Selector,
        generate: Generate,
        watch: Watch,
        given: list[Choice] | None = None,
    ):
        self._family, self._config, self._selector, self._generate = family, config, selector, generate
        self._watch, self._given = watch, given
        text: Any = family.decoder.config
        self._flash = is_flash(text._attn_implementation)
        self._labels: Tensor | None = None
        self._prompt = Prompt()
        self._stored: list[LogicalLayer] = []

    # Each method below is a hook; `install` lists them in the order in which they run.

    def install(self, stack: ExitStack) -> None:
        """Hook the model until ``stack`` closes."""
        family = self._family
        before = [
            (family.model, Hook(self._remember_labels)),
            (family.base, Hook(self._remember_prompt)),
            (family.decoder, Hook(self._open)),
            *((layer, Hook(self._enter, index)) for index, layer in enumerate(family.layers)),
        ]
        for module, hook in before:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        stack.callback(family.decoder.register_forward_hook(Hook(self._close), with_kwargs=True).remove)

    def _remember_labels(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        labels = kwargs.get("labels")
        if labels is None:
            self._labels = None
            return None
        # Where accelerate would move them after this hook: it would strike targets out of a copy that nobody reads.
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        self._labels = labels.to(labels.device if device is None else device, copy=True)
        return args, {**kwargs, "labels": self._labels}

    def _remember_prompt(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._prompt = Prompt.of(args, kwargs)
        self._watch.reset()

    def _open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Start following a prefill; a decoding step has no visual tokens and needs nothing here."""
        prompt, labels = self._prompt, self._labels
        self._prompt, self._labels = Prompt(), None
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            # Placeholders alone do not tell: a model may generate them, and they are text then.
            if prompt.visual_features:
                raise ModelError(f"visual tokens after the first prefill are not supported: {refusals.LATER}")
            return None
        text: Any = module.config
        use_cache = kwargs.get("use_cache")
        if cache is None and not module.training and (text.use_cache if use_cache is None else use_cache):
            cache = kwargs["past_key_values"] = DynamicCache(config=text)
        self._stored = [] if cache is None else take_over(cache, len(self._family.layers))
        visual, real = prompt.tokens(self._family)
        kwargs, added = take_deepstack(kwargs)
        assert prompt.input_ids is not None
        given, previous = self._given, self._generate.previous
        if previous is not None and previous.is_continued_by(prompt.input_ids):
            # Decoding without a cache repeats the prefill at every step; what it keeps was decided at the first.
            visual, given = nn.functional.pad(previous.states[0].visual, (0, 1)), previous.choices
        end = prompt_end(real, visual, labels)
        start = Prefill(
            visual,
            real,
            end,
            self._selector,
            sample_keys(prompt.input_ids, real, end),
            added,
            self._family,
        )
        if given is None:
            start.constant = self._watch.signals(prompt.pictures, start.alive)
        counts = keep_counts(self._config.keep, start.counts, start.floor)
        return args, {**kwargs, FORWARD: Forward(prompt.input_ids, start, counts, labels, given)}

    def _enter(self, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Before a layer: drop tokens in a prefill, take the mask apart in a decoding step."""
        kwargs = dict(kwargs)
        forward: Forward | None = kwargs.pop(FORWARD, None)
        cache = kwargs.get("past_key_values")
        stored = cache.layers[layer] if cache is not None else None
        if forward is None:
            return args, self._meet_cache(stored, args[0], kwargs) if isinstance(stored, LogicalLayer) else kwargs
        state, hidden = forward.enter(layer, args[0], kwargs)
        if isinstance(stored, LogicalLayer):
            stored.expect(state.slots, state.fillers, state.real.shape[1])
        kwargs = state.layer_arguments(kwargs, hidden, flash=self._flash)
        return (hidden, *args[1:]), {**kwargs, ARGUMENT: state}

    def _meet_cache(self, stored: LogicalLayer, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a layer whose new tokens meet the kept keys of a cache."""
        tokens = hidden.shape[1]
        slots, mask = stored.visible_slots(tokens), kwargs.get("attention_mask")
        if slots is None:
            return kwargs
        if self._flash:
            return {**kwargs, "attention_mask": gather_padding(mask, slots, stored.fillers)}
        rows = torch.arange(tokens, device=slots.device).expand(len(slots), -1)
        offset = 0
        if mask is None:
            rows = rows + stored.length
        else:
            offset = stored.length + tokens - mask.shape[-1]
        return {**kwargs, "attention_mask": gather_mask(mask, rows, slots, hidden.dtype, stored.fillers, offset)}

    def _close(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Put the survivors back to their places, so that labels and callers' shapes stay valid."""
        forward: Forward | None = kwargs.get(FORWARD)
        if forward is None:
            return output
        forward.strike_lost_targets()
        self.kept_counts = forward.counts
        self.kept = [choice.kept for choice in forward.choices]
        self.merged = [choice.weights for choice in forward.choices]
        if self._generate.running and not self._stored:
            self._generate.previous = forward
        hidden = forward.states[-1].scatter_back(output[0])
        self.kv_bytes = self._count_kv_bytes(forward, hidden.element_size())
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output["last_hidden_state"] = hidden
        if output.get("hidden_states") is not None:
            output["hidden_states"] = (*output["hidden_states"][:-1], hidden)
        return output

    def _count_kv_bytes(self, forward: Forward, bytes_per_number: int) -> int:
        shape = DecoderShape.of(self._family.decoder.config)
        text, counts = forward.states[0].text, forward.counts
        held = [
            width if layer.window is None else min(width, layer.window - 1)
            for width, layer in zip((text + counts).amax(dim=1).tolist(), self._stored, strict=False)
        ]
        return int(bytes_per_number * len(text) * sum(held) * shape.kv_numbers)


@contextmanager
def prune(model: Any, config: PruningConfig) -> Iterator[Pruned]:
    """Prune the visual tokens of a stock Hugging Face model inside a ``with`` block.

    ``model.generate`` and ``model(...)`` work as ever, for batches with padding on either side, and for models wrapped
    by PEFT or spread by accelerate. The block leaves no trace, and a copy of the model made inside it is a stock model.

    What is different from the unpruned model:

    * A cache that the block filled goes on working for more turns of text inside the block, not after it. Images come
      with the first turn.
    * With ``labels``, tokens are scored by the last token before the first target, and targets right after dropped
      tokens are left out of the loss, with a warning. With gradient checkpointing the backward pass belongs into the
      block too.
    * Of ``output_hidden_states`` only the last entry has the full length, with zeros for dropped tokens.

    Parameters
    ----------
    model : PreTrainedModel
        A supported vision-language model; see ``vispco models``.
    config : PruningConfig
        For this model: same type and number of layers.

    Yields
    ------
    Pruned
        Kept counts and tokens of the last prefill.

    Raises
    ------
    ModelError
        If the model, its attention backend or the way it is called is not supported.
    ConfigError
        If the configuration is for another model, or its selector cannot follow its schedule.
    """
    check_release()
    with pruned_model(model, config) as pruned:
        yield pruned


@contextmanager
def pruned_model(model: Any, config: PruningConfig, given: list[Choice] | None = None) -> Iterator[Pruned]:
    """:func:`prune` without a look at the release of transformers, and with given choices for tests.

    Parameters
    ----------
    given : list of Choice, one per layer, or None
        Tokens to keep in place of the selector's choice, as many as the schedule says.
    """
    family = describe(model)
    selector = make_selector(config.selector, config.selector_params)
    kind = family.model.config.model_type
    if (config.model.type, config.model.layers) != (kind, len(family.layers)):
        raise ConfigError(
            f"the configuration is for {config.model.type} with {config.model.layers} decoder layers, the model is "
            f"{kind} with {len(family.layers)}; export one for this model"
        )
    if config.keep[0] < 1.0 and selector.needs & BEFORE:
        raise ConfigError(
            f"keep[0] = {config.keep[0]} drops tokens before layer 0, where {config.selector} has no attention to "
            "score with; set keep[0] to 1, or choose a selector that needs no attention"
        )
    with ExitStack() as stack:
        stack.enter_context(observed_attention(family))
        generate = stack.enter_context(watched_generate(family.model))
        watch = stack.enter_context(watched_tower(family, selector.needs))
        pruned = Pruned(family, config, selector, generate, watch, given)
        pruned.install(stack)
        yield pruned
