"""``prune``: a stock model that drops visual tokens inside a ``with`` block."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vispco.config import PruningConfig
from vispco.engine.attention import ARGUMENT, observed_attention
from vispco.engine.cache import LogicalLayer, take_over
from vispco.engine.families import Family, describe
from vispco.engine.prefill import Prefill, gather_mask, sample_keys
from vispco.errors import ConfigError, ModelError
from vispco.schedule import keep_counts
from vispco.selectors import Selector, make_selector


class Pruned:
    """What happened in the last prefill.

    Attributes
    ----------
    kept_counts : Tensor, shape (layers, batch), int64
        Visual tokens that entered each layer.
    kept : list of Tensor, one per layer, shape (batch, visual), bool
        Which of them, in the sample's original order.
    """

    kept_counts: Tensor
    kept: list[Tensor]

    def __init__(self, family: Family, config: PruningConfig, selector: Selector):
        self._family, self._config, self._selector = family, config, selector
        self._prompt: tuple[Tensor | None, Tensor | None] = (None, None)

    # Each method below is a hook; `install` lists them in the order in which they run.

    def install(self, stack: ExitStack) -> None:
        """Hook the model until ``stack`` closes."""
        family = self._family
        hooks = [
            family.base.register_forward_pre_hook(self._remember_prompt, with_kwargs=True),
            family.decoder.register_forward_pre_hook(self._open, with_kwargs=True),
            *(
                layer.register_forward_pre_hook(_LayerHook(self, index), with_kwargs=True)
                for index, layer in enumerate(family.layers)
            ),
            family.layers[-1].register_forward_hook(self._close, with_kwargs=True),
        ]
        for hook in hooks:
            stack.callback(hook.remove)

    def _remember_prompt(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._prompt = (kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask"))

    def _open(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Start following a prefill; a decoding step has no visual tokens and needs nothing here."""
        (input_ids, real), self._prompt = self._prompt, (None, None)
        cache = kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        if input_ids is None:
            if past:
                return None
            raise ModelError("a prefill without input_ids has no visual tokens to find; pass input_ids")
        visual = self._family.visual_mask(input_ids)
        if past:
            # One token alone is what the model generated, even if that is the placeholder.
            if input_ids.shape[1] > 1 and bool(visual.any()):
                raise ModelError("visual tokens after the first prefill are not supported; start with a new cache")
            return None
        if real is None:
            real = torch.ones_like(visual)
        elif real.dim() != 2:
            raise ModelError(f"attention_mask has {real.dim()} dimensions; pass the tokenizer's mask (batch, sequence)")
        real = real.bool()
        places = torch.arange(real.shape[1], device=real.device)
        last = torch.where(real, places, 0).amax(dim=1)
        prefill = Prefill(visual & real, real, last, self._selector, sample_keys(input_ids, real))
        text: Any = module.config
        if cache is None and kwargs.get("use_cache", text.use_cache):
            cache = kwargs["past_key_values"] = DynamicCache(config=text)
        if cache is not None:
            take_over(cache, len(self._family.layers))
        self.kept_counts = keep_counts(self._config.keep, prefill.alive.sum(dim=1))
        self.kept = []
        return args, {**kwargs, ARGUMENT: prefill}

    def _close(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Put the survivors back to their places, so that labels and callers' shapes stay valid."""
        prefill = kwargs.get(ARGUMENT)
        if prefill is None:
            return None
        if isinstance(output, tuple):
            return (prefill.scatter_back(output[0]), *output[1:])
        return prefill.scatter_back(output)


class _LayerHook:
    """Before layer ``index``: drop tokens in a prefill, take the mask apart in a decoding step."""

    def __init__(self, pruned: Pruned, index: int):
        self.pruned, self.index = pruned, index

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        prefill: Prefill | None = kwargs.get(ARGUMENT)
        cache = kwargs.get("past_key_values")
        layer = cache.layers[self.index] if cache is not None else None
        hidden = args[0]
        if prefill is None:
            return self._decode(layer, hidden, args, kwargs)
        counts = self.pruned.kept_counts[self.index : self.index + 2]
        hidden = prefill.cut(counts[0], hidden)
        prefill.watch = bool((counts[-1] < counts[0]).any())
        self.pruned.kept.append(prefill.alive)
        if isinstance(layer, LogicalLayer):
            layer.prefill(prefill.slots, prefill.real.shape[1])
        return (hidden, *args[1:]), prefill.layer_arguments(kwargs, hidden.dtype)

    def _decode(
        self, layer: Any, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not isinstance(layer, LogicalLayer):
            return None
        layer.grow(hidden.shape[1])
        if layer.slots is None:
            return None
        mask, queries = kwargs.get("attention_mask"), hidden.shape[1]
        new = layer.slots[:, -queries:]
        rows = new if mask is None else new - (layer.length - queries)
        return args, {**kwargs, "attention_mask": gather_mask(mask, rows, layer.slots, hidden.dtype)}


@contextmanager
def prune(model: Any, config: PruningConfig) -> Iterator[Pruned]:
    """Prune the visual tokens of a stock Hugging Face model inside a ``with`` block.

    ``model.generate`` and ``model(...)`` work as ever; the block leaves no trace. Use a cache only inside the block
    that filled it.

    Parameters
    ----------
    model : PreTrainedModel
        A supported vision-language model.
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
    family = describe(model)
    selector = make_selector(config.selector, config.selector_params)
    if (config.model.type, config.model.layers) != (model.config.model_type, len(family.layers)):
        raise ConfigError(
            f"the configuration is for {config.model.type} with {config.model.layers} decoder layers, the model is "
            f"{model.config.model_type} with {len(family.layers)}; export one for this model"
        )
    if config.keep[0] < 1.0 and "last_row" in selector.needs:
        raise ConfigError(
            f"keep[0] = {config.keep[0]} drops tokens before layer 0, where {config.selector} has no attention to "
            "score with; set keep[0] to 1"
        )
    pruned = Pruned(family, config, selector)
    with ExitStack() as stack:
        stack.enter_context(observed_attention(model))
        pruned.install(stack)
        yield pruned
