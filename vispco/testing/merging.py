"""What merging has to equal: the stock model in which the hidden states of merged tokens are rewritten, one by one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def rewritten(
    decoder: nn.Module,
    layers: Sequence[nn.Module],
    visual: Tensor,
    kept: Sequence[Tensor],
    merged: Sequence[Tensor | None],
) -> Iterator[None]:
    """Run a stock model in which some tokens of the prompt become weighted sums at the inputs of layers.

    What the decoder adds to the output of its first layers (DeepStack) is rewritten by all merges up to that layer.

    Parameters
    ----------
    decoder : Module
    layers : its layers
    visual : Tensor, shape (batch, sequence), bool
    kept, merged : one per layer
        As of :class:`vispco.engine.Pruned`.
    """
    handles = []

    def merge(layer: int, tokens: list[Tensor]) -> None:
        """Rewrite the visual tokens of every sample, each of shape (visual, width), in place."""
        weights = merged[layer]
        assert weights is not None
        for row, own in enumerate(tokens):
            before = own.clone()
            for place, target in enumerate(kept[layer][row].nonzero()[:, 0].tolist()):
                parts = weights[row, place, : len(own)].to(own.dtype if own.dtype == torch.float64 else torch.float32)
                own[target] = (parts[:, None] * before.to(parts.dtype)).sum(dim=0).to(own.dtype)

    def before_layer(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden, cache = args[0].clone(), kwargs.get("past_key_values")
            if cache is not None and cache.layers[layer].get_seq_length():
                return None
            tokens = [hidden[row, : visual.shape[1]][mask] for row, mask in enumerate(visual)]
            merge(layer, tokens)
            for row, mask in enumerate(visual):
                hidden[row, : visual.shape[1]][mask] = tokens[row]
            return (hidden, *args[1:]), kwargs

        return hook

    def before_decoder(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        features = kwargs.get("deepstack_visual_embeds")
        if features is None:
            return None
        rewritten = []
        for after, feature in enumerate(features):
            tokens = [part.clone() for part in feature.split(visual.sum(dim=1).tolist())]
            for layer in range(after + 1):
                if merged[layer] is not None:
                    merge(layer, tokens)
            rewritten.append(torch.cat(tokens))
        return args, {**kwargs, "deepstack_visual_embeds": rewritten}

    if any(weights is not None for weights in merged):
        handles.append(decoder.register_forward_pre_hook(before_decoder, with_kwargs=True))
    for layer, weights in enumerate(merged):
        if weights is not None:
            handles.append(layers[layer].register_forward_pre_hook(before_layer(layer), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
